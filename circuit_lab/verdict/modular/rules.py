"""From what was read of held-out pairs to a verdict: the rules, and the thresholds that each verdict rested on.

1. Training pairs not learnt: `untrained`.
2. Held-out pairs solved: `true_circuit` when their logits are explained by few frequencies and the right answers go
   through them; `fake_grokking` when the logits are not explained, show no choice of frequencies, or the answers do
   not depend on them; `semi_grokked` in between.
3. Most held-out answers wrong, and next to nothing of the circuit in the logits: `memorising`, or `ungrokked` where an
   earlier state of these weights had grokked.
4. Else `semi_grokked`: part of the way, or part of the way back.

"Held-out" are pairs neither of whose orders is in training, where the task is commutative: a net whose attention treats
a and b alike answers the others from memory.

Where nobody knows which pairs were trained on, the rules are those of `unknown_split`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from circuit_lab.measures import Interval, concentration, fit_characters, frequency_energy
from circuit_lab.tasks import AnswerGroup
from circuit_lab.verdict.checks import CheckedPath, Decision, Estimate, Share
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS, ModularThresholds
from circuit_lab.verdict.verdicts import Verdict

_RESAMPLES_AT_ONCE = 50


@dataclass(frozen=True)
class Readings:
    """The numbers that the rules read.

    Attributes:
        training: Right answers among the training pairs; None where nobody knows which they are.
        held_out: Right answers among the held-out pairs; among all pairs where nobody knows which were held out, and so
            for what follows.
        explained: Share of the energy of held-out logits in the generalising part, fitted there.
        concentration: Distance of its spectrum from an answer table's.
        circuit: Of the right held-out answers, those that are lost with the key frequencies and not without random
            subspaces.
        alone: Of all pairs, those answered right with nothing but the key frequencies, at every site; None where the
            rules do not ask for it.
    """

    training: Share | None
    held_out: Share
    explained: Estimate
    concentration: Estimate
    circuit: Share
    alone: Share | None = None


TRAINING = "training accuracy"
HELD_OUT = "held-out accuracy"
EXPLAINED = "share of held-out logits explained by the generalising circuit"
CONCENTRATION = "concentration of its frequencies (an answer table has 0)"
CIRCUIT = "right held-out answers through the key frequencies"


def _training(readings: Readings) -> Share:
    assert readings.training is not None, "of an unknown split, rules that ask for training accuracy have no place"
    return readings.training


QUANTITIES: Mapping[str, Callable[[Readings], Share | Estimate]] = {
    TRAINING: _training,
    HELD_OUT: lambda r: r.held_out,
    EXPLAINED: lambda r: r.explained,
    CONCENTRATION: lambda r: r.concentration,
    CIRCUIT: lambda r: r.circuit,
}
"""Every number that a rule may compare, under the name that explanations use."""


def decide(readings: Readings, *, had_grokked: bool, thresholds: ModularThresholds = MODULAR_THRESHOLDS) -> Decision:
    """Apply the rules to the point values, whatever their uncertainty.

    Args:
        readings: What was read.
        had_grokked: Whether an earlier state of these weights had grokked.
        thresholds: What to compare with.

    Returns:
        The verdict and the comparisons.
    """

    def rules(turned: frozenset[tuple[str, float]]) -> Decision:
        path = CheckedPath(readings, QUANTITIES, turned)
        verdict = _verdict(path, had_grokked, thresholds)
        return Decision(verdict, tuple(path.checks), rules)

    return rules(frozenset())


def _verdict(path: CheckedPath[Readings], had_grokked: bool, at: ModularThresholds) -> Verdict:
    if not path.reaches(TRAINING, at.training_learnt):
        return Verdict.UNTRAINED
    if path.reaches(HELD_OUT, at.solved):
        return _verdict_on_solved(path, at)
    if path.reaches(HELD_OUT, at.unsolved) or path.reaches(EXPLAINED, at.not_explained):
        return Verdict.SEMI_GROKKED
    return Verdict.UNGROKKED if had_grokked else Verdict.MEMORISING


def _verdict_on_solved(path: CheckedPath[Readings], at: ModularThresholds) -> Verdict:
    if not (path.reaches(EXPLAINED, at.not_explained) and path.reaches(CONCENTRATION, at.concentrated)):
        return Verdict.FAKE_GROKKING
    if not path.reaches(CIRCUIT, at.not_through_circuit):
        return Verdict.FAKE_GROKKING
    whole = path.reaches(EXPLAINED, at.explained) and path.reaches(CIRCUIT, at.through_circuit)
    return Verdict.TRUE_CIRCUIT if whole else Verdict.SEMI_GROKKED


@dataclass(frozen=True, eq=False)
class HeldOutPairs:
    """What the numbers are averaged from, pair by pair; all pairs, where nobody knows which were held out.

    Attributes:
        group: The group of the answers.
        aligned: Centred logits, the right output in column 0.
        right: Whether the answer is right.
        mediated: Whether it goes through the key frequencies.
        alone: Whether it is right with nothing but the key frequencies, at every site; None where the rules do not ask.
    """

    group: AnswerGroup
    aligned: Float64[Tensor, "n order"]
    right: Bool[Tensor, " n"]
    mediated: Bool[Tensor, " n"]
    alone: Bool[Tensor, " n"] | None = None

    def spectrum(self, weights: Float64[Tensor, "m n"]) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]:
        """Energy share and concentration of the generalising part, for each weighting of the pairs."""
        coefficients = fit_characters(weights @ self.aligned / weights.sum(1, keepdim=True), self.group)
        generalising = coefficients.square() @ self.group.characters.square().sum(1)
        total = weights @ self.aligned.square().sum(1) / weights.sum(1)
        spread = concentration(frequency_energy(coefficients, self.group), self.group)
        assert isinstance(spread, Tensor)
        return generalising / total.clamp(min=torch.finfo(total.dtype).tiny), spread


def bootstrap(
    pairs: HeldOutPairs,
    training: Share | None,
    rules: Callable[[Readings], Decision],
    *,
    n_resamples: int,
    seed: int,
) -> tuple[Readings, Mapping[str, float]]:
    """The readings with their intervals, and the share of resamples of the pairs that give each verdict.

    Training pairs and held-out pairs are resampled with replacement, independently (Efron 1979); everything that is
    read of the held-out pairs is read again from each resample, the fit included.

    Args:
        pairs: The held-out pairs, at least one.
        training: Right answers among the training pairs; None where nobody knows which they are.
        rules: Names the verdict of readings.
        n_resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        The readings; and verdict -> share in (0, 1], largest first, summing to 1.
    """
    resamples = list(_resampled(pairs, training, n_resamples, np.random.default_rng(seed)))
    n = len(pairs.right)
    explained, spread = (float(v) for v in pairs.spectrum(torch.ones(1, n, dtype=torch.float64)))
    readings = Readings(
        training=training,
        held_out=Share(int(pairs.right.sum()), n),
        explained=Estimate(explained, _percentiles([r.explained.value for r in resamples]), n),
        concentration=Estimate(spread, _reflected(spread, _percentiles([r.concentration.value for r in resamples])), n),
        circuit=Share(int(pairs.mediated.sum()), int(pairs.right.sum())),
        alone=None if pairs.alone is None else Share(int(pairs.alone.sum()), n),
    )
    tally = Counter(str(rules(r).verdict) for r in resamples)
    return readings, {verdict: count / n_resamples for verdict, count in tally.most_common()}


def _resampled(
    pairs: HeldOutPairs, training: Share | None, n_resamples: int, rng: np.random.Generator
) -> Iterator[Readings]:
    """The readings of each resample; their intervals are not needed and are points."""
    n = len(pairs.right)
    trained = None if training is None else rng.binomial(training.n, training.value if training.n else 0.0, n_resamples)
    for start in range(0, n_resamples, _RESAMPLES_AT_ONCE):
        n_now = min(_RESAMPLES_AT_ONCE, n_resamples - start)
        drawn = rng.integers(n, size=(n_now, n))
        weights = torch.from_numpy(np.stack([np.bincount(row, minlength=n) for row in drawn])).double()
        explained, spread = pairs.spectrum(weights)
        right, mediated = weights @ pairs.right.double(), weights @ pairs.mediated.double()
        alone = None if pairs.alone is None else weights @ pairs.alone.double()
        for i in range(n_now):
            yield Readings(
                training=None if training is None or trained is None else Share(int(trained[start + i]), training.n),
                held_out=Share(int(right[i]), n),
                explained=_point(float(explained[i]), n),
                concentration=_point(float(spread[i]), n),
                circuit=Share(int(mediated[i]), int(right[i])),
                alone=None if alone is None else Share(int(alone[i]), n),
            )


def _point(value: float, n: int) -> Estimate:
    return Estimate(value, Interval(value, value), n)


def _reflected(value: float, percentiles: Interval) -> Interval:
    """The basic bootstrap interval (Davison and Hinkley 1997, 5.2).

    Noise of the pairs adds energy to every frequency, and a resample adds it once more: resampled concentrations lie
    as far below the one read as that lies below the truth, and so do their percentiles.
    """
    return Interval(min(2 * value - percentiles.high, value), min(2 * value - percentiles.low, 1.0))


def _percentiles(values: list[float]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))
