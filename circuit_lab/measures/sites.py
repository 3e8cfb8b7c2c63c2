"""Sites: where a state is read, cached and patched.

* A `Site` is (stage, set of positions). A *stage* is a lens site of the net, named by its label: `embed`; `resid_post
  k`, the residual stream after effective layer k; in a recursive net `H0.L1` or `H0.commit`, one of its two streams
  after a step; the other stream stays as it is. In a causal net the bridge entity sits at r1's position alone; in other
  architectures it may sit at several positions together, hence the set. A recursive net computes it anew in each cycle,
  from the receiver's own tokens; a site may be *held*: its positions are then replaced at every later stage, too.
* An `OutputSite` is a set of places where a component (one layer's token mixing or MLP) writes to one position. It
  reaches what the stream at a position cannot give alone: a bridge beside the token of r2, or one that was written
  several times over. All its places are patched together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuit_lab.measures.hooked_model import hooks_to_resume, mixer_of, n_prefix, rows_of, states_at
from circuit_lab.nets import HookedNet, LensSite, find_lens_site, queries_at_once
from circuit_lab.tasks import Queries


@dataclass(frozen=True, order=True)
class Site:
    """Where a state is patched: a stage of the net and the positions replaced there.

    Attributes:
        stage: Label of a lens site.
        positions: Token positions.
        held: Whether they are replaced at every later stage, too.
    """

    stage: str
    positions: tuple[int, ...]
    held: bool = False

    def label(self, position_names: Sequence[str]) -> str:
        """A name people read, such as `resid_post 0 @ r1`.

        >>> Site("resid_post 0", (0, 1)).label(("h", "r1", "r2"))
        'resid_post 0 @ h+r1'
        >>> Site("H0.L1", (1,), held=True).label(("h", "r1", "r2"))
        'H0.L1 on @ r1'
        """
        return f"{self.stage}{' on' if self.held else ''} @ {'+'.join(position_names[p] for p in self.positions)}"


@dataclass(frozen=True, order=True)
class Place:
    """What one component writes at one position: `component` is "attn_out", "pos_mlp_out" or "mlp_out"."""

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

    def label(self, position_names: Sequence[str]) -> str:
        """A name people read.

        >>> OutputSite((Place(0, "mlp_out", 1), Place(1, "mlp_out", 2))).label(("h", "r1", "r2"))
        'mlp_out 0 @ r1 & mlp_out 1 @ r2'
        """
        return " & ".join(f"{p.component} {p.layer} @ {position_names[p.position]}" for p in self.places)


AnySite = Site | OutputSite


def shares_states(a: AnySite, b: AnySite) -> bool:
    """Whether `site_states` gives the same for both."""
    of_one_stage = isinstance(a, Site) and isinstance(b, Site) and a.stage == b.stage and not (a.held or b.held)
    return a == b or of_one_stage


def lens_places(site: AnySite, stages: Sequence[LensSite]) -> tuple[tuple[str, int], ...]:
    """The (stage, position) pairs at which a lens of a net with these stages first sees what is patched.

    >>> from circuit_lab.nets.sites import lens_sites_of_cycles
    >>> stages = lens_sites_of_cycles(h_cycles=1, l_cycles=2, n_blocks=2)
    >>> lens_places(OutputSite((Place(2, "mlp_out", 1), Place(5, "attn_out", 0))), stages)
    (('H0.L1', 1), ('H0.commit', 0))
    """
    if isinstance(site, Site):
        return tuple((site.stage, position) for position in site.positions)
    return tuple(
        (next(stage.label for stage in stages if stage.layer > place.layer), place.position) for place in site.places
    )


def output_places(net: HookedNet, n_ctx: int) -> list[Place]:
    """Every component's output at every position, in order; without the last MLP's, which no layer reads."""
    names = (f"{mixer_of(net)}_out", "mlp_out")
    components = [(layer, name) for layer in range(net.cfg.n_layers) for name in names][:-1]
    return [Place(layer, name, position) for layer, name in components for position in range(n_ctx)]


def position_sets(n_ctx: int) -> list[tuple[int, ...]]:
    """Every proper, non-empty set of positions, smallest first.

    The set of all positions is left out: replacing the whole state asks nothing but the source query.

    >>> position_sets(3)
    [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    """
    return [subset for size in range(1, n_ctx) for subset in combinations(range(n_ctx), size)]


def inner_stages(net: HookedNet) -> list[str]:
    """Labels of the stages where an intermediate value can be patched.

    Without the embedding, where a transplant only swaps input tokens, and without the last stage, which no layer reads.
    """
    return [site.label for site in net.lens_sites[1:-1]]


def stage_before(net: HookedNet, site: OutputSite) -> str:
    """Label of the last stage before any of the places, up to which patching them changes nothing."""
    first = min((place.layer for place in site.places), default=0)
    return next(stage.label for stage in reversed(net.lens_sites) if stage.layer <= first)


@dataclass(frozen=True)
class _Write:
    """One row that is replaced after a resume: of what a hook sees, at a token position."""

    hook_name: str
    position: int


def _resume_stage(net: HookedNet, site: AnySite) -> str:
    """Label of the stage from which a patch at a site runs on."""
    return site.stage if isinstance(site, Site) else stage_before(net, site)


def _writes(net: HookedNet, site: AnySite) -> tuple[_Write, ...]:
    """What is replaced after the resume: an `OutputSite`'s places; a held site's positions, at each later stage.

    Without the last stage: only the answer is read from it.
    """
    if isinstance(site, OutputSite):
        return tuple(_Write(place.hook_name, place.position) for place in site.places)
    if not site.held:
        return ()
    later = net.lens_sites[net.lens_sites.index(find_lens_site(net.lens_sites, site.stage)) + 1 : -1]
    return tuple(_Write(stage.hook_name, position) for stage in later for position in site.positions)


def patched_parts(net: HookedNet, site: AnySite, n_rows: int) -> list[list[int]]:
    """Which of the `n_rows` rows that `site_states` gives are replaced, in parts: by position, or by place."""
    writes = _writes(net, site)
    written = list(enumerate(writes, start=n_rows - len(writes)))
    if isinstance(site, OutputSite):
        return [[row] for row, _ in written]
    return [
        [*rows_of(net, [position]), *(row for row, write in written if write.position == position)]
        for position in site.positions
    ]


@torch.no_grad()
def residual_states(
    net: HookedNet, tokens: Int[Tensor, "n n_ctx"], *, stage: str, batch_size: int = 4096
) -> Float[Tensor, "n n_ctx d_model"]:
    """The state of each query at one stage, at the tokens' positions.

    Args:
        net: A hooked net.
        tokens: Token ids.
        stage: Label of a lens site.
        batch_size: Queries per forward pass at most; wide nets take fewer.

    Returns:
        States on the net's device.
    """
    if len(tokens) == 0:
        return torch.zeros(0, tokens.shape[1], net.cfg.d_model, dtype=net.dtype, device=net.device)
    return states_at(net, tokens, stage=stage, batch_size=queries_at_once(net, tokens.shape[1], at_most=batch_size))


@torch.no_grad()
def site_states(
    net: HookedNet, tokens: Int[Tensor, "n n_ctx"], *, site: AnySite, batch_size: int = 4096
) -> Float[Tensor, "n rows d_model"]:
    """What `patched_answers` needs of each query, to lend its state at a site or to receive another's.

    Args:
        net: A hooked net.
        tokens: Token ids.
        site: The site.
        batch_size: Queries per forward pass at most; wide nets take fewer.

    Returns:
        What the net runs on from: the state at the site's stage, or before the first of an `OutputSite`'s places, one
        row per position; in a recursive net the rows of the other stream and of the input behind them (see
        `resume_states`). Then one row per place of an `OutputSite`, or per later stage and position of a held site.
        `patched_parts` says which rows are replaced.
    """
    writes, before = _writes(net, site), hooks_to_resume(net, _resume_stage(net, site))
    names = {*before, *(write.hook_name for write in writes)}
    n_rows = n_state_rows(net, site, tokens.shape[1])
    states = torch.empty(len(tokens), n_rows, net.cfg.d_model, dtype=net.dtype, device=net.device)
    cached = len(names) * (n_prefix(net) + tokens.shape[1]) * net.cfg.d_model
    size = queries_at_once(net, tokens.shape[1], at_most=batch_size, cached=cached)
    for rows in torch.arange(len(tokens)).split(size):
        _, cache = net.run_with_cache(tokens[rows], names_filter=lambda name: name in names)
        written = [cache[write.hook_name][:, rows_of(net, [write.position])] for write in writes]
        states[rows] = torch.cat([*(cache[name] for name in before), *written], dim=1)
    return states


def n_state_rows(net: HookedNet, site: AnySite, n_pos: int) -> int:
    """Rows of each query in what `site_states` gives.

    Args:
        net: A hooked net.
        site: The site.
        n_pos: Token positions.

    Returns:
        Their number.
    """
    n_before = len(hooks_to_resume(net, _resume_stage(net, site)))
    return n_before * (n_prefix(net) + n_pos) + len(_writes(net, site))


@torch.no_grad()
def patched_logits(
    net: HookedNet,
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
    writes = _writes(net, site)
    n_resumed = receiver_states.shape[1] - len(writes)
    residual = receiver_states[:, :n_resumed]
    if isinstance(site, Site):
        rows = rows_of(net, site.positions)
        residual = residual.clone()
        residual[:, rows] = source_states[:, rows]
    hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = [
        (write.hook_name, _writer(rows_of(net, [write.position]), source_states[:, [n_resumed + i]]))
        for i, write in enumerate(writes)
    ]
    with net.hooks(fwd_hooks=hooks):
        return net(
            None,
            start_at=_resume_stage(net, site),
            residual=residual,
            answer_only=True,
            answer_position=answer_position,
        )


def _writer(rows: list[int], given: Float[Tensor, "m rows d_model"]) -> Callable[[Tensor, HookPoint], Tensor]:
    """A hook that puts what is given in place of these rows."""

    def write(activation: Tensor, hook: HookPoint) -> Tensor:
        del hook
        activation = activation.clone()
        activation[:, rows] = given
        return activation

    return write


@torch.no_grad()
def predicted_answers(net: HookedNet, queries: Queries, *, batch_size: int = 4096) -> Int[Tensor, " n"]:
    """The net's top token at each query's answer position, on the CPU."""
    size = queries_at_once(net, queries.tokens.shape[1], at_most=batch_size)
    top = [
        net(tokens, answer_only=True, answer_position=position).argmax(-1).cpu()
        for tokens, position in zip(queries.tokens.split(size), queries.answer_position.split(size), strict=True)
    ]
    return torch.cat(top) if top else torch.zeros(0, dtype=torch.long)


def known_good(net: HookedNet, queries: Queries, *, batch_size: int = 4096) -> Queries:
    """The queries that the net answers right: the only ones fit to be partners in a causal test."""
    return queries[predicted_answers(net, queries, batch_size=batch_size) == queries.answer]
