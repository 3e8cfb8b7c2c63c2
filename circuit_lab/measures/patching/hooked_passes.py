"""Patches within the steps of a recursive net: forward passes with a hook on, one for each cell.

What one of its layers computes is no function of a state at a lens site: it reads the sum of two streams and the input,
and what a step of several blocks has between them is no lens site. And its layers spread what is replaced at one
position (an MLP over positions is normed over them). So the pass goes on from the last lens site before the layer, with
the source run's activation put in on the way:

1. the source run goes on from there and keeps the activation;
2. the receiver's, stacked once for each cell, has it put in where the cell says.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuit_lab.measures.hooked_model import HookedModel, keepers, n_prefix, resumed_logits
from circuit_lab.measures.model_facts import site_before
from circuit_lab.measures.patching.patch_sites import PATCH_KINDS, PatchGrid


def hooked_logits(
    model: HookedModel,
    grid: PatchGrid,
    layer: int,
    *,
    source: Float[Tensor, "n rows d_model"],
    receiver: Float[Tensor, "n rows d_model"],
    read_at: int,
) -> Float[Tensor, "cells n d_vocab_out"]:
    """The logits of every cell in one layer.

    Args:
        model: A recursive net.
        grid: The cells, of a kind other than "resid".
        layer: Which layer, the site of the grid.
        source: What the run that lends its activation goes on with from the last lens site before the layer.
        receiver: What the run that gets it goes on with from there.
        read_at: The answer position of all queries.

    Returns:
        Logits at that position, cells by position, then by row of the grid.
    """
    hook_name = f"blocks.{layer}.{PATCH_KINDS[grid.kind].hook or f'hook_{grid.kind}'}"
    start = site_before(model, layer).label
    found: dict[str, Tensor] = {}
    position = torch.full((len(source),), read_at)
    resumed_logits(model, source, position, start_at=start, fwd_hooks=keepers(found, [hook_name]))
    wanted = found[hook_name]
    chosen = chosen_entries(grid, n_prefix=n_prefix(model)).to(wanted.device)
    n_cells = len(chosen)

    def replace(activation: Tensor, hook: HookPoint) -> Tensor:
        del hook
        return torch.where(chosen[:, None], wanted, activation.unflatten(0, (n_cells, -1))).flatten(0, 1)

    stacked = receiver.repeat(n_cells, 1, 1)
    logits = resumed_logits(model, stacked, position.repeat(n_cells), start_at=start, fwd_hooks=[(hook_name, replace)])
    return logits.unflatten(0, (n_cells, -1))


def chosen_entries(grid: PatchGrid, *, n_prefix: int) -> Bool[Tensor, "cells ..."]:
    """Which entries of a query's activation each cell replaces, shaped to broadcast over the activation.

    Args:
        grid: The cells, of a kind other than "resid".
        n_prefix: Positions of the activation before those of the tokens. They are replaced where all are; no cell is
            one of them.

    Returns:
        One mask for each cell, by position, head and source, as far as the kind has them.

    >>> grid = PatchGrid("mlp_out", each=True, sites=("mlp_out H0.L0",), n_positions=2, n_heads=1)
    >>> chosen_entries(grid, n_prefix=1).squeeze(-1).int().tolist()
    [[0, 1, 0], [0, 0, 1]]
    """
    of_tokens = torch.eye(n_prefix + grid.n_positions, dtype=torch.bool)[n_prefix:]
    positions = of_tokens if grid.each else torch.ones_like(of_tokens[:1])
    heads = torch.eye(grid.n_heads, dtype=torch.bool)
    if grid.kind == "pattern_entry":
        to, head, source = (
            positions[:, None, None, None, :, None],
            heads[:, None, :, None, None],
            of_tokens[:, None, None],
        )
        return (to & head & source).flatten(0, 2)
    if grid.kind == "pattern":
        return (positions[:, None, None, :, None] & heads[:, :, None, None]).flatten(0, 1)
    if PATCH_KINDS[grid.kind].axes:
        return (positions[:, None, :, None, None] & heads[:, None, :, None]).flatten(0, 1)
    return positions[:, :, None]
