"""Sites: where a state is read, cached and patched.

* A `Site` of the residual stream is (stage, set of positions). A *stage* is a lens site of the net, named by its label:
  `embed` or `resid_post k`, the residual stream after effective layer k. In a causal net the bridge entity sits at r1's
  position alone; in other architectures it may sit at several positions together, hence the set.
* An `OutputSite` is a set of places where a component (one layer's attention or MLP) writes to one position. It reaches
  what the stream at a position cannot give alone: a bridge beside the token of r2, or one that was written several
  times over. All its places are patched together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuit_lab.nets import HookedSharedTransformer, find_lens_site
from circuit_lab.tasks import Queries


@dataclass(frozen=True, order=True)
class Site:
    """Where a state is patched: a stage of the net and the positions replaced there."""

    stage: str
    positions: tuple[int, ...]

    @property
    def lens_places(self) -> tuple[tuple[str, int], ...]:
        """The (stage, position) pairs at which a lens sees this state."""
        return tuple((self.stage, position) for position in self.positions)

    def label(self, position_names: Sequence[str]) -> str:
        """A name people read, such as `resid_post 0 @ r1`.

        >>> Site("resid_post 0", (0, 1)).label(("h", "r1", "r2"))
        'resid_post 0 @ h+r1'
        """
        return f"{self.stage} @ {'+'.join(position_names[p] for p in self.positions)}"


@dataclass(frozen=True, order=True)
class Place:
    """What one component writes at one position: `component` is "attn_out" or "mlp_out"."""

    layer: int
    component: str
    position: int

    @property
    def hook_name(self) -> str:
        """The HookPoint that sees it."""
        return f"blocks.{self.layer}.hook_{self.component}"


@dataclass(frozen=True, order=True)
class OutputSite:
    """Component outputs that are patched together."""

    places: tuple[Place, ...]

    @property
    def stage(self) -> str:
        """The components, such as `mlp_out 0`."""
        return " & ".join(f"{place.component} {place.layer}" for place in self.places)

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions written to, in order."""
        return tuple(sorted({place.position for place in self.places}))

    @property
    def lens_places(self) -> tuple[tuple[str, int], ...]:
        """The (stage, position) pairs at which a lens sees what was written."""
        return tuple((f"resid_post {place.layer}", place.position) for place in self.places)

    def label(self, position_names: Sequence[str]) -> str:
        """A name people read.

        >>> OutputSite((Place(0, "mlp_out", 1), Place(1, "mlp_out", 2))).label(("h", "r1", "r2"))
        'mlp_out 0 @ r1 & mlp_out 1 @ r2'
        """
        return " & ".join(f"{p.component} {p.layer} @ {position_names[p.position]}" for p in self.places)


AnySite = Site | OutputSite


def shares_states(a: AnySite, b: AnySite) -> bool:
    """Whether `site_states` gives the same for both."""
    return a == b or (isinstance(a, Site) and isinstance(b, Site) and a.stage == b.stage)


def output_places(net: HookedSharedTransformer, n_ctx: int) -> list[Place]:
    """Every component's output at every position, in order; without the last MLP's, which no layer reads."""
    components = [(layer, name) for layer in range(net.cfg.n_layers) for name in ("attn_out", "mlp_out")][:-1]
    return [Place(layer, name, position) for layer, name in components for position in range(n_ctx)]


def position_sets(n_ctx: int) -> list[tuple[int, ...]]:
    """Every proper, non-empty set of positions, smallest first.

    The set of all positions is left out: replacing the whole state asks nothing but the source query.

    >>> position_sets(3)
    [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    """
    return [subset for size in range(1, n_ctx) for subset in combinations(range(n_ctx), size)]


def inner_stages(net: HookedSharedTransformer) -> list[str]:
    """Labels of the stages where an intermediate value can be patched.

    Without the embedding, where a transplant only swaps input tokens, and without the last stage, which no layer reads.
    """
    return [site.label for site in net.lens_sites[1:-1]]


def stage_before(net: HookedSharedTransformer, site: OutputSite) -> str:
    """Label of the last stage before any of the places, up to which patching them changes nothing."""
    first = min((place.layer for place in site.places), default=0)
    return next(stage.label for stage in net.lens_sites if stage.layer == first)


@torch.no_grad()
def residual_states(
    net: HookedSharedTransformer, tokens: Int[Tensor, "n n_ctx"], *, stage: str, batch_size: int = 4096
) -> Float[Tensor, "n n_ctx d_model"]:
    """The residual stream of each query at one stage.

    Args:
        net: A hooked net.
        tokens: Token ids.
        stage: Label of a lens site.
        batch_size: Queries per forward pass; bounds memory.

    Returns:
        States on the net's device.
    """
    name = find_lens_site(net.lens_sites, stage).hook_name
    states = []
    for batch in tokens.split(batch_size):
        _, cache = net.run_with_cache(batch, names_filter=name)
        states.append(cache[name])
    if not states:
        return torch.zeros(0, tokens.shape[1], net.cfg.d_model, dtype=net.dtype, device=net.device)
    return torch.cat(states)


@torch.no_grad()
def site_states(
    net: HookedSharedTransformer, tokens: Int[Tensor, "n n_ctx"], *, site: AnySite, batch_size: int = 4096
) -> Float[Tensor, "n rows d_model"]:
    """What `patched_answers` needs of each query, to lend its state at a site or to receive another's.

    Args:
        net: A hooked net.
        tokens: Token ids.
        site: The site.
        batch_size: Queries per forward pass; bounds memory.

    Returns:
        For a `Site`, the residual stream at its stage, one row per position. For an `OutputSite`, the residual stream
        before the first of its places, one row per position, then one row per place.
    """
    if isinstance(site, Site):
        return residual_states(net, tokens, stage=site.stage, batch_size=batch_size)
    before = find_lens_site(net.lens_sites, stage_before(net, site)).hook_name
    names = {before, *(place.hook_name for place in site.places)}
    states = [torch.zeros(0, tokens.shape[1] + len(site.places), net.cfg.d_model, dtype=net.dtype, device=net.device)]
    for batch in tokens.split(batch_size):
        _, cache = net.run_with_cache(batch, names_filter=lambda name: name in names)
        outputs = [cache[place.hook_name][:, place.position, None] for place in site.places]
        states.append(torch.cat([cache[before], *outputs], dim=1))
    return torch.cat(states)


@torch.no_grad()
def patched_logits(
    net: HookedSharedTransformer,
    *,
    site: AnySite,
    receiver_states: Float[Tensor, "m rows d_model"],
    source_states: Float[Tensor, "m rows d_model"],
    answer_position: Int[Tensor, " m"],
) -> Float[Tensor, "m d_vocab_out"]:
    """The net's logits with the sources' states at a site put into the receivers'.

    Args:
        net: A hooked net.
        site: Where to patch: only its positions, or places, are replaced.
        receiver_states: `site_states` of the queries that are asked.
        source_states: `site_states` of the queries that lend their state.
        answer_position: Position read, per receiver.

    Returns:
        Logits on the net's device.
    """
    if isinstance(site, Site):
        residual = receiver_states.clone()
        positions = list(site.positions)
        residual[:, positions] = source_states[:, positions]
        return net(None, start_at=site.stage, residual=residual, answer_only=True, answer_position=answer_position)
    n_ctx = receiver_states.shape[1] - len(site.places)
    hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = [
        (place.hook_name, _writer(place, source_states[:, n_ctx + i])) for i, place in enumerate(site.places)
    ]
    with net.hooks(fwd_hooks=hooks):
        return net(
            None,
            start_at=stage_before(net, site),
            residual=receiver_states[:, :n_ctx],
            answer_only=True,
            answer_position=answer_position,
        )


def _writer(place: Place, output: Float[Tensor, "m d_model"]) -> Callable[[Tensor, HookPoint], Tensor]:
    """A hook that puts an output in place of the component's own."""

    def write(activation: Tensor, hook: HookPoint) -> Tensor:
        del hook
        activation = activation.clone()
        activation[:, place.position] = output
        return activation

    return write


@torch.no_grad()
def predicted_answers(net: HookedSharedTransformer, queries: Queries, *, batch_size: int = 4096) -> Int[Tensor, " n"]:
    """The net's top token at each query's answer position, on the CPU."""
    top = [
        net(tokens, answer_only=True, answer_position=position).argmax(-1).cpu()
        for tokens, position in zip(
            queries.tokens.split(batch_size), queries.answer_position.split(batch_size), strict=True
        )
    ]
    return torch.cat(top) if top else torch.zeros(0, dtype=torch.long)


def known_good(net: HookedSharedTransformer, queries: Queries, *, batch_size: int = 4096) -> Queries:
    """The queries that the net answers right: the only ones fit to be partners in a causal test."""
    return queries[predicted_answers(net, queries, batch_size=batch_size) == queries.answer]
