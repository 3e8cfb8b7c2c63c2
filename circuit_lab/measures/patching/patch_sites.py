"""What activation patching replaces: kinds of activations, the cells of their grids, and how a cell is replaced.

In a net with one residual stream every patch is turned into a patch of that stream between layers, from where the
forward pass goes on (in a recursive net only a patch of a stream itself is; for the others see `hooked_passes.py`):

1. The stream itself (`resid`, `resid_pre`, `resid_post`): the source run's state at one position.
2. Attention's and the MLP's output, the stream between them, a head's output, query or pattern row: replaced at one
   position they change the layer's output *at that position alone*. So one pass of the layer with the activation
   replaced at every position gives the patched output of every position's cell at once.
3. A head's keys or values: replaced at one position they change the layer's output at every position that looks there,
   so each cell has a pass of its own. The rows of all cells go through the layer together.

**`resid_mid` in a bridge.** In a TransformerLens 4 bridge `blocks.k.hook_resid_mid` is an alias of the input of the
MLP's norm. A hook that returns another tensor there changes what the MLP reads and leaves the skip connection as it
was: zeroing a position sets the MLP's output to that of a zero stream, and nothing else. TransformerLens's
`get_act_patch_resid_mid` inherits that while gradients are on; under `torch.no_grad` it writes into the very tensor
that the skip connection adds, and so replaces the stream. Here it is always the stream that is replaced: attention's
output becomes the wanted state less the state before attention. The other names (resid_pre, resid_post, attn_out,
mlp_out, z, q, k, v, pattern) mean in a bridge what they say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuit_lab.measures.hooked_model import FwdHooks, HookedModel, keepers, lens_sites, n_prefix
from circuit_lab.measures.model_facts import check_kind, is_bridge, layer_names

_MID_TOLERANCE = 1e-3
"""Relative difference up to which attention's output plus the state before it counts as the state after it."""


@dataclass(frozen=True)
class PatchKind:
    """A kind of activation that may be patched.

    Attributes:
        hook: Name within a layer of the hook that sees it; None for the stream at lens sites.
        axes: Axes of the grid beside site and position: "head", and "source", the position a head looks at.
        stays: Whether a patch at one position changes the layer's output at that position alone.
    """

    hook: str | None
    axes: tuple[str, ...] = ()
    stays: bool = True


PATCH_KINDS = {
    "resid": PatchKind(None),
    "resid_pre": PatchKind(None),
    "resid_post": PatchKind(None),
    "resid_mid": PatchKind("hook_resid_mid"),
    "attn_out": PatchKind("hook_attn_out"),
    "mlp_out": PatchKind("hook_mlp_out"),
    "pos_mlp_out": PatchKind("hook_pos_mlp_out"),
    "z": PatchKind("attn.hook_z", axes=("head",)),
    "q": PatchKind("attn.hook_q", axes=("head",)),
    "k": PatchKind("attn.hook_k", axes=("head",), stays=False),
    "v": PatchKind("attn.hook_v", axes=("head",), stays=False),
    "pattern": PatchKind("attn.hook_pattern", axes=("head",)),
    "pattern_entry": PatchKind("attn.hook_pattern", axes=("head", "source")),
}
"""Kinds by name. `resid` is the stream at every lens site (the embedding and each layer's output; in a recursive net
the input, and the stream that each step rewrites), `resid_pre` before each layer, `resid_post` after each; `z` is a
head's output before its output projection, `pattern` the row of a head's attention pattern at a destination position,
`pattern_entry` one entry of that row; `pos_mlp_out` is what a recursive net's MLP over positions writes."""


@dataclass(frozen=True)
class PatchGrid:
    """The cells of one kind in one model.

    Attributes:
        kind: Name of the kind.
        each: Whether each position is a cell of its own; otherwise all positions are replaced together.
        sites: Labels of the sites, such as "embed", "resid_pre 0" or "z 3".
        n_positions: Positions of the queries.
        n_heads: Heads of the activation; 1 for kinds without heads.
    """

    kind: str
    each: bool
    sites: tuple[str, ...]
    n_positions: int
    n_heads: int

    @property
    def n_rows(self) -> int:
        """Cells at one site and one position."""
        return len(self.rows(self.n_positions))

    def rows(self, n_ctx: int) -> Int[Tensor, " rows"]:
        """The rows, among those of one site and position, that there are for the first `n_ctx` positions."""
        n_sources = self.n_positions if "source" in PATCH_KINDS[self.kind].axes else 1
        return torch.arange(self.n_heads * n_sources).view(self.n_heads, n_sources)[:, :n_ctx].flatten()

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the grid's axes."""
        return ("site", *(["position"] if self.each else []), *PATCH_KINDS[self.kind].axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        sizes = {
            "site": len(self.sites),
            "position": self.n_positions,
            "head": self.n_heads,
            "source": self.n_positions,
        }
        return tuple(sizes[axis] for axis in self.axes)


def patch_grid(model: HookedModel, kind: str, *, each: bool, n_positions: int) -> PatchGrid:
    """The cells of a kind.

    Args:
        model: Any hooked model.
        kind: A name in `PATCH_KINDS`.
        each: Whether each position is a cell of its own.
        n_positions: Positions of the queries.

    Returns:
        The grid.

    Raises:
        ValueError: If there is no such kind, or the model has none of it.
    """
    if kind not in PATCH_KINDS:
        raise ValueError(f"kind must be one of {', '.join(PATCH_KINDS)}, got {kind!r}")
    check_kind(model, kind)
    labels = [f"{kind} {layer}" for layer in layer_names(model)]
    if kind == "resid":
        labels = [site.label for site in lens_sites(model)]
    n_heads = 1
    if PATCH_KINDS[kind].axes:
        key_heads = model.cfg.n_key_value_heads if is_bridge(model) and kind in ("k", "v") else None
        n_heads = model.cfg.n_heads if key_heads is None else key_heads
    return PatchGrid(kind=kind, each=each, sites=tuple(labels), n_positions=n_positions, n_heads=n_heads)


@dataclass(frozen=True, eq=False)
class SitePatches:
    """What one site's patches make of the residual stream at the lens site from where the forward pass goes on.

    Attributes:
        lens_site: Index of that lens site.
        states: The stream of each of the site's passes: one, or one per position for a kind that does not stay.
        receiver: The stream there without a patch.
        each: Whether each position is a cell of its own.
        stays: Whether a pass holds in each column the state that belongs to that position's cell.
        n_prefix: Positions that a state has before those of the tokens.
    """

    lens_site: int
    states: Float[Tensor, "passes rows n n_ctx d_model"]
    receiver: Float[Tensor, "n n_ctx d_model"]
    each: bool
    stays: bool
    n_prefix: int

    def cells(self, position: int) -> Float[Tensor, "rows n n_ctx d_model"]:
        """The streams of the cells at one position (0 where all positions are replaced together)."""
        if not (self.each and self.stays):
            return self.states[position]
        streams, column = self.receiver.repeat(self.states.shape[1], 1, 1, 1), self.n_prefix + position
        streams[:, :, column] = self.states[0, :, :, column]
        return streams


def site_patches(
    model: HookedModel,
    grid: PatchGrid,
    site: int,
    *,
    source: Sequence[Float[Tensor, "n n_ctx d_model"]],
    receiver: Sequence[Float[Tensor, "n n_ctx d_model"]],
) -> SitePatches:
    """Replace the activations of one site.

    Args:
        model: Any hooked model.
        grid: The cells.
        site: Which site of the grid.
        source: The stream of the run that lends its activations, at every lens site.
        receiver: The stream of the run they are put into.

    Returns:
        The patched streams of the site's cells.
    """
    kind = PATCH_KINDS[grid.kind]
    if kind.hook is None:
        lens_site = site + 1 if grid.kind == "resid_post" else site
        states = source[lens_site][None, None]
    else:
        lens_site = site + 1
        states = _layer_outputs(model, grid, site, source[site], receiver[site])
    return SitePatches(lens_site, states, receiver[lens_site], grid.each, kind.stays, n_prefix(model))


def _layer_outputs(
    model: HookedModel,
    grid: PatchGrid,
    layer: int,
    source: Float[Tensor, "n n_ctx d_model"],
    receiver: Float[Tensor, "n n_ctx d_model"],
) -> Float[Tensor, "passes rows n n_ctx d_model"]:
    """What a layer makes of the receiver's stream in each pass, with the source's activations put in."""
    hook_name, wanted = _wanted(model, grid.kind, layer, source, receiver)
    chosen = _chosen_entries(grid, receiver.shape[1]).to(receiver.device)
    n_cells = len(chosen)

    def replace(activation: Tensor, hook: HookPoint) -> Tensor:
        del hook
        return torch.where(chosen[:, None], wanted, activation.unflatten(0, (n_cells, -1))).flatten(0, 1)

    output = f"blocks.{layer}.hook_resid_post"
    stacked = receiver.repeat(n_cells, 1, 1)
    after = _layer_activations(model, stacked, layer, [output], fwd_hooks=[(hook_name, replace)])[output]
    n_rows = len(grid.rows(receiver.shape[1]))
    return after.unflatten(0, (n_cells // n_rows, n_rows, -1))


def _chosen_entries(grid: PatchGrid, n_ctx: int) -> Bool[Tensor, "cells ..."]:
    """Which entries of a query's activation each cell replaces, shaped to broadcast over the activation."""
    kind = PATCH_KINDS[grid.kind]
    if not kind.axes:
        return torch.ones(1, 1, 1, dtype=torch.bool)
    n_heads = grid.n_heads
    if kind.axes == ("head", "source"):
        return torch.eye(n_heads * n_ctx, dtype=torch.bool).view(-1, n_heads, 1, n_ctx)
    if grid.kind == "pattern":
        return torch.eye(n_heads, dtype=torch.bool)[:, :, None, None]
    if grid.each and not kind.stays:
        return torch.eye(n_ctx * n_heads, dtype=torch.bool).view(-1, n_ctx, n_heads, 1)
    return torch.eye(n_heads, dtype=torch.bool)[:, None, :, None]


def _wanted(
    model: HookedModel,
    kind: str,
    layer: int,
    source: Float[Tensor, "n n_ctx d_model"],
    receiver: Float[Tensor, "n n_ctx d_model"],
) -> tuple[str, Float[Tensor, "n ..."]]:
    """The hook at which a kind is replaced, and what by: the source run's activation (see the module on resid_mid)."""
    hook_name = f"blocks.{layer}.{PATCH_KINDS[kind].hook}"
    if kind != "resid_mid" or not is_bridge(model):
        return hook_name, _layer_activations(model, source, layer, [hook_name])[hook_name]
    attn_out = f"blocks.{layer}.hook_attn_out"
    found = _layer_activations(model, source, layer, [hook_name, attn_out])
    middle = found[hook_name]
    if not torch.allclose(source + found[attn_out], middle, rtol=_MID_TOLERANCE, atol=_MID_TOLERANCE):
        raise ValueError(
            f"in layer {layer} of this bridge hook_resid_mid is not hook_resid_pre plus hook_attn_out, so the stream "
            "there cannot be replaced; patch attn_out and mlp_out instead"
        )
    return attn_out, middle - receiver


def _layer_activations(
    model: HookedModel,
    stream: Float[Tensor, "n n_ctx d_model"],
    layer: int,
    hook_names: Sequence[str],
    *,
    fwd_hooks: FwdHooks = (),
) -> dict[str, Tensor]:
    """What the named hooks of a layer see when the layer runs alone on `stream`."""
    found: dict[str, Tensor] = {}
    with model.hooks(fwd_hooks=[*fwd_hooks, *keepers(found, hook_names)]):
        if is_bridge(model):
            model(stream, start_at_layer=layer, stop_at_layer=layer + 1)
        else:
            model.blocks[layer](stream)
    return found
