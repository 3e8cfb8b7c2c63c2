"""From a diagnosed two-hop net to its exhibits: single queries, maps over sites, and edges.

1. Draw queries of every split and outcome at random; read lens and attention, and make single transplants with them.
2. Draw other queries of every split, whatever their outcome (they stand for the split); run the three causal tests at
   every inner stage and single position, and average attention over those of `test_id`.
3. Pair `test_id` queries that the net answers right with training queries; patch states and edges between them.
4. Draw queries with shared bridges; compare their states.

Partners are the `train_inferred` queries that the evidence was read on, for of these it is known which are answered
right, hand on their bridge (`hop1`) and read another's (`interchange`). No query is its own partner: the rules of
`measures/two_hop/partners.py` forbid it.
Sample sizes are such that a small net on one core takes about a second.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures import (
    ActivationPatching,
    AttentionPatterns,
    BridgeGeometry,
    CausalTest,
    Fitness,
    LocatedSites,
    PartnerPool,
    Partners,
    PathPatching,
    QueryPairs,
    Site,
    activation_patching,
    all_edges,
    attention_patterns,
    bridge_geometry,
    causal_tests,
    inner_stages,
    logit_lens,
    pair_queries,
    path_patching,
    proportion_interval,
)
from circuit_lab.measures.attribution.edges import check_graph, why_no_graph
from circuit_lab.measures.hooked_model import mixer_of
from circuit_lab.measures.model_facts import layer_names
from circuit_lab.measures.two_hop.partner_fitness import MIN_FIT_SHARE
from circuit_lab.measures.two_hop.partners import NONE
from circuit_lab.measures.two_hop.transplant_lab import TransplantLab
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries, TwoHopTask, concatenate
from circuit_lab.verdict.diagnosis import Diagnosis
from circuit_lab.verdict.exhibits.two_hop import TwoHopExhibits
from circuit_lab.verdict.subject import Subject
from circuit_lab.verdict.two_hop.outcomes import Outcome

MAX_SHOWN = 150
"""Queries shown at most, of all splits and outcomes, for each has its lens, attention and transplants in the page."""
N_PARTNERS = 3
"""Partners per query, test and site: the fewest that make a majority."""
N_PER_SPLIT = 32
"""Queries of each split in the map over sites, every one patched at each of them: a 95 % interval of +-17 points at
most, and a third of a second for nine sites."""
MIN_PAIRS, MAX_PAIRS = 8, 48
"""Pairs of queries that are patched between; an interval over fewer says nothing."""
ROWS_PER_PASS = 512
"""Of path patching: on one core 2,048 rows took more than twice as long in all."""
MAX_READ, N_OF_BRIDGE = 128, 4
"""Queries of a split whose attention is averaged or whose states are compared, and how many of the latter have one
bridge: 32 bridges or more."""
_TESTS = ("hop1", "hop2", "interchange")
_SITE_EFFECTS = (
    "split", "test", "stage", "position", "located", "rate", "low", "high", "n", "n_transplants", "control",
)  # fmt: skip
_TRANSPLANTS = ("query", "test", "site", "receiver", "source", "wanted", "answered", "passed")


def gather_two_hop(subject: Subject[TwoHopTask], diagnosis: Diagnosis, *, max_per_outcome: int) -> TwoHopExhibits:
    """Measure what a report shows of a two-hop net beyond the evidence.

    In `site_effects`, `rate` is the share of queries for which most of the three partners pass, as in the evidence,
    `n` counts the queries with that many partners, and the interval is Wilson's over them; `control` is the share of
    control transplants. There is no row where no query has the partners.

    Args:
        subject: The net, in `eval` mode, and its task.
        diagnosis: Its diagnosis, with measurements.
        max_per_outcome: Queries shown of each split and outcome at most; fewer where there would be more than
            `MAX_SHOWN` in all.

    Returns:
        The exhibits.

    Raises:
        ValueError: If `max_per_outcome` is below 1.
    """
    if max_per_outcome < 1:
        raise ValueError(f"max_per_outcome must be at least 1, got {max_per_outcome}")
    net, task, measured = subject.net, subject.task, diagnosis.measurements
    read = {split: _Read.of(task.splits[split], frame) for split, frame in measured.queries.items()}
    partners = _PartnerSource.of(read["train_inferred"])
    draws = _Draws(diagnosis.seed)
    rows = _rows_shown(read, max_per_outcome, draws)
    frames = [read[split].shown_frame(split, chosen) for split, chosen in rows.items()]
    shown = concatenate([read[split].queries[chosen] for split, chosen in rows.items()])
    attention = attention_if_any(net, shown, n_kept=len(shown))
    pairs = {change: _pairs(read["test_id"], partners, change, draws) for change in shown.position_names}
    return TwoHopExhibits(
        vocab=task.vocab,
        position_names=shown.position_names,
        queries=pd.concat(frames, ignore_index=True),
        n_of_outcome=_n_of_outcome(read),
        lens=logit_lens(net, shown, targets=("bridge", "answer"), top_k=min(5, net.cfg.d_vocab_out)),
        layer_names=layer_names(net),
        attended=shown.position_names if attention is None else attention.position_names,
        attention=None if attention is None else attention.patterns,
        transplants=_transplants(net, shown, partners, measured.located, draws),
        site_effects=_site_effects(net, read, partners, measured.located, draws),
        edges=_edges(net, pairs[shown.position_names[0]]),
        why_no_edges=why_no_graph(net),
        patching=_patching(net, pairs),
        heads=attention_if_any(net, read["test_id"].queries.sample(MAX_READ, generator=draws.of("heads"))),
        geometry=_geometry(net, read, draws),
        seed=diagnosis.seed,
    )


@dataclass(frozen=True)
class _Draws:
    """Generators of the samples: one for each, so that a change of one leaves the others as they are."""

    seed: int

    def of(self, *sample: str) -> torch.Generator:
        return derive_generator(self.seed, "exhibits", *sample)


@dataclass(frozen=True, eq=False)
class _Read:
    """A split as the diagnosis read it: its queries, and what was found of each, row by row."""

    queries: Queries
    frame: pd.DataFrame

    @classmethod
    def of(cls, split: Queries, frame: pd.DataFrame) -> "_Read":
        """Find the queries of a frame in their split, by their tokens."""
        asked = torch.from_numpy(frame[list(split.position_names)].to_numpy(copy=True))
        base = int(split.tokens.max()) + 1
        radix = base ** torch.arange(asked.shape[1])
        key = (split.tokens * radix).sum(1).sort(stable=True)
        rows = key.indices[torch.searchsorted(key.values, (asked * radix).sum(1))]
        assert torch.equal(split.tokens[rows], asked), "every query read is one of its split"
        return cls(split[rows], frame)

    def found(self, column: str) -> Bool[Tensor, " n"]:
        """A column of yes or no: `right`, `hop1`, `hop2` or `interchange`."""
        return torch.from_numpy(self.frame[column].to_numpy(dtype=bool, copy=True))

    @property
    def outcomes(self) -> list[str]:
        """The outcome of each query."""
        return [str(outcome) for outcome in self.frame["outcome"]]

    def shown_frame(self, split: str, rows: Int[Tensor, " chosen"]) -> pd.DataFrame:
        """The rows as `TwoHopExhibits.queries` has them."""
        tokens = list(self.queries.position_names)
        columns = [*tokens, "bridge", "answer", "predicted", "right", *_TESTS, "outcome"]
        frame = self.frame.iloc[rows.numpy()][columns]
        frame.insert(0, "row", rows.numpy())
        frame.insert(0, "split", split)
        return frame


@dataclass(frozen=True, eq=False)
class _PartnerSource:
    """Training queries that the net answers right, and which of them may lend and receive states."""

    pool: Queries
    fitness: Fitness

    @classmethod
    def of(cls, training: _Read) -> "_PartnerSource":
        """All queries where next to none is right, as in an untrained net; all are fit where next to none is."""
        kept = _chosen_or_all(training.found("right"))
        lends, receives = (training.found(test)[kept] for test in ("hop1", "interchange"))
        return cls(
            pool=training.queries[kept],
            fitness=Fitness(lends=_chosen_or_all(lends), receives=_chosen_or_all(receives)),
        )


def _chosen_or_all(chosen: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
    return chosen if chosen.double().mean() >= MIN_FIT_SHARE else torch.ones_like(chosen)


def _n_of_outcome(read: Mapping[str, _Read]) -> dict[tuple[str, str], int]:
    """Queries of each split and outcome that there are, in the order of `Outcome`."""
    counts = {split: Counter(part.outcomes) for split, part in read.items()}
    return {
        (split, str(outcome)): count[str(outcome)]
        for split, count in counts.items()
        for outcome in Outcome
        if count[str(outcome)]
    }


def _rows_shown(read: Mapping[str, _Read], max_per_outcome: int, draws: _Draws) -> dict[str, Int[Tensor, " chosen"]]:
    """Rows of each split, up to as many of each outcome as fit into `MAX_SHOWN`, by outcome and then in order."""
    places = {split: _random_place(part.outcomes, draws.of("shown", split)) for split, part in read.items()}

    def n_shown(per_outcome: int) -> int:
        return sum(int((place < per_outcome).sum()) for place in places.values())

    per_outcome = next((n for n in range(max_per_outcome, 1, -1) if n_shown(n) <= MAX_SHOWN), 1)
    number = {str(outcome): i for i, outcome in enumerate(Outcome)}
    rows = {}
    for split, place in places.items():
        chosen = (place < per_outcome).nonzero().squeeze(1)
        outcome = torch.tensor([number[name] for name in read[split].outcomes])[chosen]
        rows[split] = chosen[outcome.argsort(stable=True)]
    return rows


def _random_place(groups: Sequence[str] | Sequence[int], generator: torch.Generator) -> Int[Tensor, " n"]:
    """Where each row comes in a random order of its group, from 0."""
    place, met = [0] * len(groups), Counter()
    for row in torch.randperm(len(groups), generator=generator).tolist():
        place[row] = met[groups[row]]
        met[groups[row]] += 1
    return torch.tensor(place)


def _transplants(
    net: HookedNet, shown: Queries, source: _PartnerSource, located: LocatedSites, draws: _Draws
) -> pd.DataFrame:
    """Single transplants between the shown queries and their partners at the sites of the diagnosis."""
    partner_pool = PartnerPool(source.pool, generator=draws.of("transplants"), fitness=source.fitness)
    drawn = {
        "hop1": partner_pool.hop1_receivers(shown, n_partners=N_PARTNERS),
        "hop2": partner_pool.hop2_sources(shown, n_partners=N_PARTNERS),
        "interchange": partner_pool.interchange_sources(shown, n_partners=N_PARTNERS),
    }
    used = torch.cat([partners.rows[partners.exists] for partners in drawn.values()]).unique()
    drawn = {test: _renumbered(partners, used) for test, partners in drawn.items()}
    pool = source.pool[used]
    lab = TransplantLab(net, shown, pool, batch_size=8192)
    parts = [pd.DataFrame(columns=list(_TRANSPLANTS))]
    for site in located.sites:
        for test, partners in drawn.items():
            lends = test == "hop1"
            answers = (lab.answers_when_lending if lends else lab.answers_when_receiving)(site, partners)
            query, rank = partners.exists.nonzero().unbind(1)
            cell = (query, rank)
            asked, other = _as_tuples(shown.tokens[query]), _as_tuples(pool.tokens[partners.rows[cell]])
            parts.append(
                pd.DataFrame(
                    {
                        "query": query.numpy(),
                        "test": test,
                        "site": site.label(shown.position_names),
                        "receiver": other if lends else asked,
                        "source": asked if lends else other,
                        "wanted": partners.wanted[cell].numpy(),
                        "answered": answers[cell].numpy(),
                        "passed": (answers == partners.wanted)[cell].numpy(),
                    }
                )
            )
    parts = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(parts, ignore_index=True).sort_values("query", kind="stable", ignore_index=True)


def _renumbered(partners: Partners, used: Int[Tensor, " used"]) -> Partners:
    """The same partners, by their place among the pool queries in use, so that no others are run."""
    place = torch.searchsorted(used, partners.rows.clamp(min=0))
    return Partners(rows=torch.where(partners.exists, place, NONE), wanted=partners.wanted)


def _as_tuples(tokens: Int[Tensor, "m n_ctx"]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in tokens.tolist()]


def _site_effects(
    net: HookedNet,
    read: Mapping[str, _Read],
    source: _PartnerSource,
    located: LocatedSites,
    draws: _Draws,
) -> pd.DataFrame:
    """The three tests at every inner stage and single position, on a sample of every split."""
    names = located.position_names
    sites = [Site(stage, (position,)) for stage in inner_stages(net) for position in range(len(names))]
    samples = {
        split: part.queries.sample(N_PER_SPLIT, generator=draws.of("sites", split)) for split, part in read.items()
    }
    tests = causal_tests(
        net,
        concatenate(list(samples.values())),  # all splits at once: each call costs as much again
        source.pool,
        sites=sites,
        generator=draws.of("sites", "partners"),
        n_partners=N_PARTNERS,
        fitness=source.fitness,
    )
    rows, start = [], 0
    for split, sample in samples.items():
        part = slice(start, start + len(sample))
        start += len(sample)
        for name in _TESTS:
            test = _of_queries(getattr(tests, name), part)
            n = int(test.testable.sum())
            for i, site in enumerate(sites if n else ()):
                passed = int(test.majority[i].sum())
                interval = proportion_interval(passed, n)
                rows.append(
                    {
                        "split": split,
                        "test": name,
                        "stage": site.stage,
                        "position": names[site.positions[0]],
                        "located": located.found and site in located.sites,
                        "rate": passed / n,
                        "low": interval.low,
                        "high": interval.high,
                        "n": n,
                        "n_transplants": int(test.exists.sum()),
                        "control": float(test.control_rate[i]),
                    }
                )
    return pd.DataFrame(rows, columns=list(_SITE_EFFECTS))


def _of_queries(test: CausalTest, rows: slice) -> CausalTest:
    """The test on some of its queries."""
    return CausalTest(
        passed=test.passed[:, rows],
        exists=test.exists[rows],
        control=test.control[:, rows],
        control_exists=test.control_exists[rows],
    )


def _pairs(tested: _Read, source: _PartnerSource, change: str, draws: _Draws) -> QueryPairs | None:
    """Queries answered right, each with a training query that differs in one token; None where there are too few."""
    right = tested.found("right").nonzero().squeeze(1)
    if len(right) < MIN_PAIRS:
        return None
    generator = draws.of("pairs", change)
    queries = tested.queries[right[torch.randperm(len(right), generator=generator)]]
    try:
        pairs = pair_queries(queries, source.pool, change=change, generator=generator)
    except ValueError:  # none of them has a partner
        return None
    return pairs[:MAX_PAIRS] if len(pairs) >= MIN_PAIRS else None


def _edges(net: HookedNet, pairs: QueryPairs | None) -> PathPatching | None:
    """Every edge between whole attentions and MLPs at each position; heads apart would take four times as long."""
    if pairs is None or why_no_graph(net) is not None:
        return None
    together = all_edges(check_graph(net), heads="together")
    return path_patching(net, pairs, edges=together, positions="each", batch_size=ROWS_PER_PASS)


def _patching(net: HookedNet, pairs: Mapping[str, QueryPairs | None]) -> dict[str, ActivationPatching]:
    """The stream at every lens site and position, for each change of which there are pairs."""
    return {
        change: activation_patching(net, found, kind="resid") for change, found in pairs.items() if found is not None
    }


def attention_if_any(net: HookedNet, queries: Queries, *, n_kept: int = 0) -> AttentionPatterns | None:
    """Where each head looks; None in a net that mixes positions by an MLP."""
    return attention_patterns(net, queries, n_kept=n_kept) if mixer_of(net) == "attn" else None


def _geometry(net: HookedNet, read: Mapping[str, _Read], draws: _Draws) -> BridgeGeometry | None:
    """States of training queries and of `test_ood`, with the same bridges where both have them."""
    rank = torch.randperm(net.cfg.d_vocab, generator=draws.of("bridges"))
    splits = {
        split: _of_some_bridges(read[split].queries, rank, draws.of("compared", split))
        for split in ("train_inferred", "test_ood")
    }
    if len(torch.cat([part.intermediates["bridge"] for part in splits.values()]).unique()) < 2:
        return None
    geometry = bridge_geometry(net, splits, seed=draws.seed)
    return geometry if geometry.n_pairs.any() else None


def _of_some_bridges(queries: Queries, rank: Int[Tensor, " d_vocab"], generator: torch.Generator) -> Queries:
    """Up to `N_OF_BRIDGE` queries of each bridge, for the bridges that come first, up to `MAX_READ` in all."""
    bridge = queries.intermediates["bridge"]
    few = (_random_place(bridge.tolist(), generator) < N_OF_BRIDGE).nonzero().squeeze(1)
    by_bridge = few[rank[bridge[few]].argsort(stable=True)]
    return queries[by_bridge[:MAX_READ].sort().values]
