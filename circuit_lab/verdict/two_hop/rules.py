"""From accuracies and outcome shares to a verdict: the rules, and the thresholds that each verdict rested on.

1. OOD solved: `true_circuit`, `fake_grokking` or (mixed) `semi_grokked`, by the share of right answers through the
   bridge. This comes first: a net that answers OOD queries from a leaked table has generalised nothing, however much
   of its training it has learnt.
2. Training not learnt: `untrained`.
3. `test_id` not solved: `memorising` when most of it is wrong, `semi_grokked` in between.
4. OOD half solved: `semi_grokked`.
5. OOD not solved: with `test_id` through the bridge, `second_hop_failure`, `first_hop_failure` or `id_circuit`, by what
   explains most wrong answers; otherwise `semi_grokked`, for the shares are too mixed to call.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from circuit_lab.verdict.checks import CheckedPath, Decision, Share
from circuit_lab.verdict.thresholds import THRESHOLDS, Thresholds
from circuit_lab.verdict.two_hop.outcomes import Outcome, OutcomeCounts
from circuit_lab.verdict.verdicts import Verdict


@dataclass(frozen=True)
class Readings:
    """The counts that the rules read.

    Attributes:
        training: Right answers among the training items.
        test_id: Outcomes on `test_id`.
        test_ood: Outcomes on `test_ood`.
    """

    training: Share
    test_id: OutcomeCounts
    test_ood: OutcomeCounts


TRAINING = "training accuracy"
ID_ACCURACY, OOD_ACCURACY = "test_id accuracy", "test_ood accuracy"
ID_BRIDGE = "test_id right answers through the bridge"
OOD_BRIDGE = "test_ood right answers through the bridge"
SECOND_HOP = "test_ood wrong answers that fail the second hop"
FIRST_HOP = "test_ood wrong answers that fail the first hop"

QUANTITIES: Mapping[str, Callable[[Readings], Share]] = {
    TRAINING: lambda r: r.training,
    ID_ACCURACY: lambda r: Share(r.test_id.n_right, r.test_id.n),
    OOD_ACCURACY: lambda r: Share(r.test_ood.n_right, r.test_ood.n),
    ID_BRIDGE: lambda r: Share(r.test_id.counts[Outcome.CIRCUIT], r.test_id.n_right_testable),
    OOD_BRIDGE: lambda r: Share(r.test_ood.counts[Outcome.CIRCUIT], r.test_ood.n_right_testable),
    SECOND_HOP: lambda r: Share(r.test_ood.counts[Outcome.SECOND_HOP_FAILURE], r.test_ood.n_wrong_testable),
    FIRST_HOP: lambda r: Share(r.test_ood.counts[Outcome.FIRST_HOP_FAILURE], r.test_ood.n_wrong_testable),
}
"""Every share that a rule may compare, under the name that explanations use."""


def decide(readings: Readings, *, thresholds: Thresholds = THRESHOLDS) -> Decision:
    """Apply the rules to the point values, whatever their uncertainty."""

    def rules(turned: frozenset[tuple[str, float]]) -> Decision:
        path = CheckedPath(readings, QUANTITIES, turned)
        verdict = _verdict(path, thresholds)
        return Decision(verdict, tuple(path.checks), rules)

    return rules(frozenset())


def _verdict(path: CheckedPath[Readings], at: Thresholds) -> Verdict:
    if path.reaches(OOD_ACCURACY, at.solved):
        if path.reaches(OOD_BRIDGE, at.through_bridge):
            return Verdict.TRUE_CIRCUIT
        mixed = path.reaches(OOD_BRIDGE, at.not_through_bridge)
        return Verdict.SEMI_GROKKED if mixed else Verdict.FAKE_GROKKING
    if not path.reaches(TRAINING, at.training_learnt):
        return Verdict.UNTRAINED
    if not path.reaches(ID_ACCURACY, at.solved):
        return Verdict.SEMI_GROKKED if path.reaches(ID_ACCURACY, at.unsolved) else Verdict.MEMORISING
    if path.reaches(OOD_ACCURACY, at.unsolved) or not path.reaches(ID_BRIDGE, at.through_bridge):
        return Verdict.SEMI_GROKKED
    if path.reaches(SECOND_HOP, at.mostly):
        return Verdict.SECOND_HOP_FAILURE
    return Verdict.FIRST_HOP_FAILURE if path.reaches(FIRST_HOP, at.mostly) else Verdict.ID_CIRCUIT


def resampled_verdicts(readings: Readings, *, n_resamples: int, seed: int) -> Mapping[str, float]:
    """Share of bootstrap resamples of the queries that give each verdict, largest first.

    Every split is resampled with replacement, independently (Efron 1979). Resampling keeps the joint counts of
    answer and outcome, so a resample is one multinomial draw per split.

    Args:
        readings: The observed counts.
        n_resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        Verdict -> share in (0, 1]; the shares sum to 1.
    """
    rng = np.random.default_rng(seed)
    training = _resample([readings.training.n_true, readings.training.n - readings.training.n_true], n_resamples, rng)
    splits = [_resampled_outcomes(split, n_resamples, rng) for split in (readings.test_id, readings.test_ood)]
    tally = Counter(
        str(decide(Readings(Share(int(right), int(right + wrong)), test_id, test_ood)).verdict)
        for (right, wrong), test_id, test_ood in zip(training, *splits, strict=True)
    )
    return {verdict: count / n_resamples for verdict, count in tally.most_common()}


def _resample(counts: list[int], n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Multinomial resamples [n_resamples, n_categories] of observed counts."""
    total = sum(counts)
    return rng.multinomial(total, np.array(counts) / total if total else [1 / len(counts)] * len(counts), n_resamples)


def _resampled_outcomes(split: OutcomeCounts, n_resamples: int, rng: np.random.Generator) -> list[OutcomeCounts]:
    """Resamples of a split's outcomes, untestable queries divided by whether they were right."""
    testable = {name: count for name, count in split.counts.items() if name != Outcome.UNTESTABLE}
    right_untestable = split.n_right - split.n_right_testable
    wrong_untestable = split.counts[Outcome.UNTESTABLE] - right_untestable
    drawn = _resample([*testable.values(), right_untestable, wrong_untestable], n_resamples, rng)
    resamples = []
    for *outcomes, right, wrong in drawn.tolist():
        counts = dict(zip(testable, outcomes, strict=True)) | {str(Outcome.UNTESTABLE): right + wrong}
        n_right = counts[Outcome.CIRCUIT] + counts[Outcome.SHORTCUT] + right
        resamples.append(OutcomeCounts(n=split.n, n_right=n_right, counts=counts))
    return resamples
