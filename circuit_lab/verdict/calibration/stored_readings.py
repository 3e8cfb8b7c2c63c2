"""The deciding readings of a diagnosis as plain numbers: other thresholds can be tried without running a net."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from circuit_lab.measures import Interval
from circuit_lab.verdict.checks import Decision, Estimate, Share
from circuit_lab.verdict.diagnosis import Diagnosis, Evidence, SplitOutcomes
from circuit_lab.verdict.modular import rules as modular_rules
from circuit_lab.verdict.modular.evidence import CIRCUIT_ROW, EXPLAINED_ROW
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS, THRESHOLDS, ModularThresholds, Thresholds
from circuit_lab.verdict.two_hop import rules as two_hop_rules
from circuit_lab.verdict.two_hop.outcomes import OutcomeCounts


class TwoHopReadings(BaseModel):
    """What the two-hop rules read.

    Attributes:
        family: Tells the two kinds of readings apart.
        training: Right answers among the training items, and their number.
        test_id: Queries and right answers of `test_id`, and queries by outcome.
        test_ood: The same of `test_ood`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["two_hop"] = "two_hop"
    training: Share
    test_id: OutcomeCounts
    test_ood: OutcomeCounts

    def decide(self, thresholds: Thresholds = THRESHOLDS) -> Decision:
        """The decision at other thresholds, or at those in use."""
        readings = two_hop_rules.Readings(self.training, self.test_id, self.test_ood)
        return two_hop_rules.decide(readings, thresholds=thresholds)


class ModularReadings(BaseModel):
    """What the modular rules read.

    Attributes:
        family: Tells the two kinds of readings apart.
        training: Right answers among the training pairs, and their number.
        held_out: The same of the held-out pairs that decide.
        explained: Share of the energy of held-out logits in the generalising part, with its interval.
        concentration: Distance of its spectrum from an answer table's, with its interval.
        circuit: Of the right held-out answers, those that go through the key frequencies, and their number.
        had_grokked: Whether an earlier state of the weights had grokked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["modular"] = "modular"
    training: Share
    held_out: Share
    explained: Estimate
    concentration: Estimate
    circuit: Share
    had_grokked: bool

    def decide(self, thresholds: ModularThresholds = MODULAR_THRESHOLDS) -> Decision:
        """The decision at other thresholds, or at those in use."""
        readings = modular_rules.Readings(
            self.training, self.held_out, self.explained, self.concentration, self.circuit
        )
        return modular_rules.decide(readings, had_grokked=self.had_grokked, thresholds=thresholds)


StoredReadings = Annotated[TwoHopReadings | ModularReadings, Field(discriminator="family")]


def readings_of(diagnosis: Diagnosis) -> TwoHopReadings | ModularReadings:
    """The numbers that a diagnosis rested on, from its evidence and outcomes.

    The one number taken from the measurements behind them is the modular circuit's count: the evidence shows 0 where
    the logits show no choice of frequencies, which is itself a matter of thresholds.

    Args:
        diagnosis: A diagnosis just made, with its measurements.

    Returns:
        Readings from which `decide` comes to the same verdict.
    """
    rows = {(e.name, e.split): e for e in diagnosis.evidence if e.decides}
    if diagnosis.family == "two_hop":
        splits = {split.split: split for split in diagnosis.outcomes}
        return TwoHopReadings(
            training=_share(rows["accuracy", "all training items"]),
            test_id=_counts(splits["test_id"]),
            test_ood=_counts(splits["test_ood"]),
        )
    held_out = next(split for name, split in rows if name == CIRCUIT_ROW)
    ablation = diagnosis.measurements.ablations[held_out]
    return ModularReadings(
        training=_share(rows["accuracy", "train"]),
        held_out=_share(rows["accuracy", held_out]),
        explained=_estimate(rows[EXPLAINED_ROW, held_out]),
        concentration=_estimate(rows["frequency concentration", held_out]),
        circuit=Share(int((ablation.right & ablation.mediated).sum()), int(ablation.right.sum())),
        had_grokked="ungrokked" in diagnosis.candidates,
    )


def _share(row: Evidence) -> Share:
    return Share(round((row.value or 0.0) * row.n), row.n)


def _estimate(row: Evidence) -> Estimate:
    assert row.value is not None and row.low is not None and row.high is not None, "a deciding number has an interval"
    return Estimate(row.value, Interval(row.low, row.high), row.n)


def _counts(split: SplitOutcomes) -> OutcomeCounts:
    counts: Mapping[str, float] = split.shares
    return OutcomeCounts(
        n=split.n,
        n_right=round(split.accuracy * split.n),
        counts={outcome: round(share * split.n) for outcome, share in counts.items()},
    )
