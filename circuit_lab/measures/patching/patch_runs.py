"""The runs of activation patching, for one batch of pairs that are read at the same position.

Forward passes after a patch are either the model's own, resumed from a lens site (any model) or with a hook on (what a
recursive net computes within a step), or cover only the positions that the patch can reach (a causal net of ours,
`causal_suffix.py`). All fill the same table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_lab.measures.hooked_model import (
    HookedModel,
    activations,
    has_several_streams,
    lens_sites,
    resumed_logits,
)
from circuit_lab.measures.metrics import target_of
from circuit_lab.measures.model_facts import site_before
from circuit_lab.measures.patching.causal_suffix import CausalSuffix, KeysValues
from circuit_lab.measures.patching.hooked_passes import hooked_logits
from circuit_lab.measures.patching.patch_sites import PATCH_KINDS, PatchGrid, SitePatches, site_patches
from circuit_lab.measures.patching.query_pairs import QueryPairs, noise_hooks
from circuit_lab.nets.sites import sites_to_resume

SOURCE, RECEIVER = 0, 1
"""The two runs of a pair, in the order of every axis `runs`: the one that lends its activations, and the other."""


@dataclass(frozen=True, eq=False)
class BatchMetrics:
    """The metrics of a batch, in the order of `METRICS`.

    Attributes:
        values: Of the patched runs.
        runs: Of the source and the receiver.
    """

    values: Float[Tensor, "n_metrics n_sites n_positions n_rows n"]
    runs: Float[Tensor, "n_metrics runs n"]


@dataclass(frozen=True, eq=False)
class _Runs:
    """Both runs of a batch.

    Attributes:
        streams: The stream of each run at every lens site.
        logits: Of each run, at the answer position.
        read_at: The answer position.
        keys_values: Per layer and position, key and value of each run; empty for the model's own forward passes.
    """

    streams: tuple[Float[Tensor, "runs n n_ctx d_model"], ...]
    logits: Float[Tensor, "runs n d_vocab_out"]
    read_at: int
    keys_values: tuple[KeysValues, ...] = ()

    def of(self, run: int) -> tuple[Float[Tensor, "n n_ctx d_model"], ...]:
        """The stream of one run at every lens site."""
        return tuple(stream[run] for stream in self.streams)

    def other_states(self, model: HookedModel, run: int, lens_site: int) -> list[Float[Tensor, "n n_ctx d_model"]]:
        """What later steps read beside the stream at a lens site: a recursive net's other stream, and its input."""
        sites = lens_sites(model)
        _, *others = sites_to_resume(sites, sites[lens_site].label)
        return [self.streams[sites.index(other)][run] for other in others]


@dataclass(frozen=True, eq=False)
class _CellRows:
    """Some cells of one site and position.

    Attributes:
        site: Their site in the grid.
        position: Their position.
        rows: Their rows in the grid.
    """

    site: int
    position: int
    rows: Int[Tensor, " cells"]


@dataclass(frozen=True, eq=False)
class _Cells(_CellRows):
    """Cells whose patch is one of the stream at a lens site.

    Attributes:
        lens_site: Index of the lens site where the forward pass goes on.
        streams: Their streams there.
    """

    lens_site: int
    streams: Float[Tensor, "cells n n_ctx d_model"]


_Passes = Iterator[tuple[Sequence[_CellRows], Tensor]]
"""Cells and, in their order, their logits `[cells, n, d_vocab_out]`."""


def patch_batch(
    model: HookedModel,
    grid: PatchGrid,
    pairs: QueryPairs,
    *,
    clean: int,
    suffix: CausalSuffix | None,
    batch_size: int,
) -> BatchMetrics:
    """The metrics of pairs in every cell.

    Args:
        model: Any hooked model.
        grid: The cells.
        pairs: All with the same answer position; few enough that their cells at one site fit a batch.
        clean: Which run is the clean one, `SOURCE` or `RECEIVER`.
        suffix: The model prepared for passes over the last positions; None for its own forward passes.
        batch_size: Rows per forward pass.

    Returns:
        The metrics, on the model's device.
    """
    runs = _runs(model, pairs, clean=clean, suffix=suffix)
    target = target_of(runs.logits[clean], answer=pairs.clean.answer, other_answer=pairs.corrupt.answer)
    of_runs = target.metrics(runs.logits)
    n_positions = grid.n_positions if grid.each else 1
    values = of_runs[:, RECEIVER, None, None, None].repeat(1, len(grid.sites), n_positions, grid.n_rows, 1)
    if suffix is not None:
        passes = _suffix_passes(model, grid, runs, suffix)
    elif grid.kind == "resid" or not has_several_streams(model):
        passes = _own_passes(model, grid, runs, batch_size=batch_size)
    else:
        passes = _hooked_passes(model, grid, runs)
    for parts, logits in passes:
        sizes = [len(part.rows) for part in parts]
        for part, metrics in zip(parts, target.metrics(logits).split(sizes, dim=1), strict=True):
            values[:, part.site, part.position, part.rows] = metrics
    return BatchMetrics(values, of_runs)


def _runs(model: HookedModel, pairs: QueryPairs, *, clean: int, suffix: CausalSuffix | None) -> _Runs:
    """Run the clean and the corrupt queries, in the order source, receiver."""
    read_at = int(pairs.clean.answer_position[0])
    of_both = [(pairs.clean.tokens, None), (pairs.corrupt.tokens, pairs.noise)]
    ordered = of_both if clean == SOURCE else of_both[::-1]
    if suffix is None:
        streams = tuple(map(torch.stack, zip(*(_own_streams(model, *run) for run in ordered), strict=True)))
        logits = [_resumed(model, streams[-1][run], len(streams) - 1, read_at) for run in (SOURCE, RECEIVER)]
        return _Runs(streams, torch.stack(logits), read_at)
    # No state depends on later positions, so those after the answer are not run.
    kept = slice(read_at + 1)
    noise = None
    if pairs.noise is not None:
        added = pairs.noise[:, kept]
        noise = torch.stack([torch.zeros_like(added) if part is None else added for _, part in ordered])
    found = suffix.runs(torch.stack([tokens[:, kept] for tokens, _ in ordered]), noise=noise)
    return _Runs(found.streams, found.logits, read_at, found.keys_values)


def _own_streams(
    model: HookedModel, tokens: Int[Tensor, "n n_ctx"], noise: Float[Tensor, "n n_ctx d_model"] | None
) -> tuple[Float[Tensor, "n rows d_model"], ...]:
    """The stream at every lens site in one forward pass, with noise on the token embeddings if there is any."""
    names = [site.hook_name for site in lens_sites(model)]
    hooks = noise_hooks(noise)
    found = activations(model, tokens, [*names, *(name for name, _ in hooks)], fwd_hooks=hooks)
    return tuple(found[name] for name in names)


def _resumed(
    model: HookedModel, streams: Float[Tensor, "rows n_ctx d_model"], lens_site: int, read_at: int
) -> Float[Tensor, "rows d_vocab_out"]:
    """The logits at the answer position, by the model's own forward pass from a lens site on."""
    position = torch.full((len(streams),), read_at)
    return resumed_logits(model, streams, position, start_at=lens_sites(model)[lens_site].label)


def _own_passes(model: HookedModel, grid: PatchGrid, runs: _Runs, *, batch_size: int) -> _Passes:
    """Site by site, with the cells of all positions stacked."""
    source, receiver = runs.of(SOURCE), runs.of(RECEIVER)
    n = len(receiver[0])
    for site in range(len(grid.sites)):
        patches = site_patches(model, grid, site, source=source, receiver=receiver)
        others = runs.other_states(model, RECEIVER, patches.lens_site)
        new: list[_Cells] = []
        for position in range(grid.n_positions if grid.each else 1):
            cells, like_source = _split_known(grid, runs, patches, site=site, position=position, is_all=not others)
            if len(like_source.rows):
                yield [like_source], runs.logits[SOURCE].expand(len(like_source.rows), -1, -1)
            new.append(cells)
        rows = torch.cat([cells.streams for cells in new]).flatten(0, 1)
        if len(rows):
            if others:
                rows = torch.cat([rows, torch.cat(others, dim=1).repeat(len(rows) // n, 1, 1)], dim=1)
            parts = [_resumed(model, part, patches.lens_site, runs.read_at) for part in rows.split(batch_size)]
            yield new, torch.cat(parts).unflatten(0, (-1, n))


def _hooked_passes(model: HookedModel, grid: PatchGrid, runs: _Runs) -> _Passes:
    """Layer by layer, with the cells of all positions stacked; each is a pass with a hook on."""
    for layer in range(len(grid.sites)):
        start = lens_sites(model).index(site_before(model, layer))
        source, receiver = (
            torch.cat([runs.of(run)[start], *runs.other_states(model, run, start)], dim=1) for run in (SOURCE, RECEIVER)
        )
        logits = hooked_logits(model, grid, layer, source=source, receiver=receiver, read_at=runs.read_at)
        n_positions = grid.n_positions if grid.each else 1
        rows = grid.rows(grid.n_positions)
        yield [_CellRows(layer, position, rows) for position in range(n_positions)], logits


def _suffix_passes(model: HookedModel, grid: PatchGrid, runs: _Runs, suffix: CausalSuffix) -> _Passes:
    """Position by position, with the cells of all sites stacked, and without the positions before."""
    source, receiver = runs.of(SOURCE), runs.of(RECEIVER)
    n_ctx = receiver[0].shape[1]
    sites = range(len(grid.sites))
    patches = [site_patches(model, grid, site, source=source, receiver=receiver) for site in sites]
    for position in range(n_ctx if grid.each else 1):
        lender, first = RECEIVER, position
        if PATCH_KINDS[grid.kind].hook is None and grid.each and position == 0 < n_ctx - 1:
            # The first position sees only itself, so from the patch on it is as in the source run.
            lender, first = SOURCE, 1
        new: list[_Cells] = []
        for site in sites:
            cells, like_source = _split_known(grid, runs, patches[site], site=site, position=position, is_all=True)
            if len(like_source.rows):
                yield [like_source], runs.logits[SOURCE].expand(len(like_source.rows), -1, -1)
            new.append(cells)
        if any(len(cells.rows) for cells in new):
            entering = _by_lens_site(new, n_lens_sites=len(runs.streams), first=first)
            before = [
                [(key[lender], value[lender]) for key, value in of_layer[:first]] for of_layer in runs.keys_values
            ]
            yield new, suffix.logits(entering, before)


def _by_lens_site(new: Sequence[_Cells], *, n_lens_sites: int, first: int) -> list[Float[Tensor, "_ n suffix d_model"]]:
    """The streams that enter at each lens site, from position `first` on; none where no cell enters."""
    nothing = new[0].streams[:0, :, first:]
    streams = {cells.lens_site: cells.streams[:, :, first:] for cells in new}
    return [streams.get(lens_site, nothing) for lens_site in range(n_lens_sites)]


def _split_known(
    grid: PatchGrid, runs: _Runs, patches: SitePatches, *, site: int, position: int, is_all: bool
) -> tuple[_Cells, _Cells]:
    """The cells that need a forward pass, and those whose patch makes the receiver the source.

    Cells whose patch changes nothing are in neither. `is_all` says that nothing but this stream is read later.
    """
    streams = patches.cells(position)
    of_source, of_receiver = runs.streams[patches.lens_site]
    new, like_source = [], []
    for row, stream in enumerate(streams):
        if torch.equal(stream, of_receiver):
            continue
        (like_source if is_all and torch.equal(stream, of_source) else new).append(row)
    rows = grid.rows(streams.shape[2])

    def part(chosen: list[int]) -> _Cells:
        of_chosen = streams if len(chosen) == len(streams) else streams[chosen]
        return _Cells(site, position, rows[chosen], patches.lens_site, of_chosen)

    return part(new), part(like_source)
