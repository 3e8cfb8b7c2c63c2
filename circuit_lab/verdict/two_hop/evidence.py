"""The evidence table of a diagnosis: every number with its split, site, interval, control and n."""

from collections.abc import Mapping, Sequence

from circuit_lab.measures import (
    BRIDGE_FOUND_CAVEAT,
    BridgeRecovery,
    CausalTest,
    LocatedSites,
    weight_norms,
)
from circuit_lab.measures.sites import lens_places
from circuit_lab.nets import HookedNet, LensSite
from circuit_lab.tasks import TwoHopTask
from circuit_lab.verdict.checks import Share, share_right_of_sample
from circuit_lab.verdict.diagnosis import Evidence
from circuit_lab.verdict.two_hop import rules
from circuit_lab.verdict.two_hop.outcomes import Outcome
from circuit_lab.verdict.two_hop.reading import SplitReading

CONTROL_MEANS = {
    "hop1": "the same receivers given an unrelated query's state: share with the same wanted answer",
    "hop2": "a state with another bridge: share that still gives the right answer",
    "interchange": "a random displacement of the same norm: share that keeps its own answer",
}
DECIDING_SPLITS = ("test_id", "test_ood")
LOCATING = "hop1 when locating"
_THROUGH_BRIDGE = "right answers through the bridge"
_SECOND_HOP, _FIRST_HOP = "wrong answers that fail the second hop", "wrong answers that fail the first hop"
ROW_OF = {
    rules.TRAINING: ("accuracy", "all training items"),
    rules.ID_ACCURACY: ("accuracy", "test_id"),
    rules.OOD_ACCURACY: ("accuracy", "test_ood"),
    rules.ID_BRIDGE: (_THROUGH_BRIDGE, "test_id"),
    rules.OOD_BRIDGE: (_THROUGH_BRIDGE, "test_ood"),
    rules.SECOND_HOP: (_SECOND_HOP, "test_ood"),
    rules.FIRST_HOP: (_FIRST_HOP, "test_ood"),
    LOCATING: (LOCATING, "train_inferred (locating sample)"),
}
"""Name and split of the rows that state a quantity of the rules."""


def gather_evidence(
    net: HookedNet,
    task: TwoHopTask,
    training: Share,
    readings: Mapping[str, SplitReading],
    located: LocatedSites,
    seed: int,
) -> tuple[Evidence, ...]:
    """Lay out accuracies, the locating rates, the causal tests and the lens readings.

    Args:
        net: The net diagnosed.
        task: Its task.
        training: Right answers among the training items.
        readings: What was measured on each two-hop split.
        located: The sites.
        seed: Draws the samples of larger splits that are only answered.

    Returns:
        Rows in reading order: accuracies, sites, tests by split, lens by split, norm of the weights.
    """
    rows = [Evidence.of("accuracy", "all training items", training, decides=True)]
    rows += _accuracy_rows(net, task, readings, seed)
    rows += _locating_rows(located)
    for split, reading in readings.items():
        rows += _test_rows(split, reading)
        rows += _lens_rows(split, reading.lens, located, net.lens_sites)
    return (*rows, Evidence.of_weight_norm(weight_norms(net)))


def _accuracy_rows(net: HookedNet, task: TwoHopTask, readings: Mapping[str, SplitReading], seed: int) -> list[Evidence]:
    """Accuracy of every split, against the best answer that ignores the question."""
    read = {split: Share(reading.counts.n_right, reading.counts.n) for split, reading in readings.items()}
    return [
        Evidence.of_accuracy(
            split,
            read[split] if split in read else share_right_of_sample(net, queries, seed),
            chance=task.chance[split],
            decides=split in DECIDING_SPLITS,
        )
        for split, queries in task.splits.items()
        if len(queries)
    ]


def _locating_rows(located: LocatedSites) -> list[Evidence]:
    """Hop-1 rate of each chosen site on the locating sample, against the best site of other positions."""
    n_positions = {len(site.positions) for site in located.sites}
    chosen = {site.positions for site in located.sites}
    others = [
        c.deciding_rate
        for c in located.candidates
        if len(c.site.positions) in n_positions and c.site.positions not in chosen
    ]
    return [
        Evidence.of(
            *ROW_OF[LOCATING],
            Share(round(c.deciding_rate * c.n), c.n),
            site=c.site.label(located.position_names),
            control=max(others, default=None),
            compared_with="the best site at as many other positions",
        )
        for c in located.candidates
        if c.site in located.sites
    ]


def _test_rows(split: str, reading: SplitReading) -> list[Evidence]:
    """The three tests at each site, and the share that passes all three at one site."""
    tests, rows = reading.tests, []
    named: list[tuple[str, CausalTest]] = [
        ("hop1", tests.hop1),
        ("hop2", tests.hop2),
        ("interchange", tests.interchange),
    ]
    for name, test in named:
        n = int(test.testable.sum())
        for i, site in enumerate(tests.sites):
            rows.append(
                Evidence.of(
                    name,
                    split,
                    Share(int(test.majority[i].sum()), n),
                    site=site.label(tests.position_names),
                    control=float(test.control_rate[i]) if test.control_exists.any() else None,
                    compared_with=CONTROL_MEANS[name],
                )
            )
    counts = reading.counts
    rows.append(
        Evidence.of(
            _THROUGH_BRIDGE,
            split,
            Share(counts.counts[Outcome.CIRCUIT], counts.n_right_testable),
            compared_with="all three tests at one site, by majority of partners",
            decides=split in DECIDING_SPLITS,
        )
    )
    return rows + [
        Evidence.of(
            name,
            split,
            Share(counts.counts[outcome], counts.n_wrong_testable),
            compared_with="of the wrong answers on which all three tests can be made",
            decides=split == "test_ood",
        )
        for name, outcome in (
            (_SECOND_HOP, Outcome.SECOND_HOP_FAILURE),
            (_FIRST_HOP, Outcome.FIRST_HOP_FAILURE),
        )
    ]


def _lens_rows(split: str, lens: BridgeRecovery, located: LocatedSites, stages: Sequence[LensSite]) -> list[Evidence]:
    """Lens readings: corroboration only."""
    rows = [
        Evidence.of(
            "lens bridge top1",
            split,
            Share(round(float(lens.bridge_top1[lens.stages.index(stage), position]) * lens.n), lens.n),
            site=f"{stage} @ {lens.position_names[position]}",
            control=lens.chance,
            compared_with="a guess among the vocabulary; corroborates, never decides",
        )
        for stage, position in dict.fromkeys(place for site in located.sites for place in lens_places(site, stages))
    ]
    rows.append(
        Evidence.of(
            "bridge resolves before answer",
            split,
            Share(round(lens.bridge_first * lens.n), lens.n),
            compared_with="corroborates, never decides",
        )
    )
    rows.append(
        Evidence.of(
            "bridge_found",
            split,
            Share(round(lens.bridge_found * lens.n), lens.n),
            compared_with=BRIDGE_FOUND_CAVEAT,
        )
    )
    return rows
