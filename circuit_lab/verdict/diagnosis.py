"""The result of a diagnosis: a verdict with the evidence that carries it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from circuit_lab.measures import WeightNorms
from circuit_lab.tasks import SplitCertificate
from circuit_lab.verdict.checks import Estimate, Reason, Share
from circuit_lab.verdict.reported import Reported
from circuit_lab.verdict.verdicts import Verdict

SCHEMA_VERSION = 5
SCHEMA_PATH = Path(__file__).with_name("diagnosis.schema.json")
"""The published JSON schema of `Diagnosis.to_json`; a test holds it equal to the code."""


Unit = Literal["share", "logits", "nats", "norm", "logits per norm", "Gini"]


@dataclass(frozen=True)
class Evidence:
    """One number that the diagnosis rests on or shows.

    Attributes:
        name: What was measured: `accuracy`, `hop1`, `trig energy share`, `right without key frequencies` ...
        split: On which queries.
        site: Where, such as `resid_post 0 @ r1`; empty when the number has no site.
        value: The number, in `unit`; None when no query could be measured.
        low: Lower end of its 95 % interval: Wilson's for a share of queries, else from a bootstrap or the standard
            error over the queries; None for a number that is shown without one.
        high: Upper end.
        n: What the number is counted or averaged over, mostly queries.
        unit: "share" (in [0, 1]), "logits", "nats" (of a loss), "norm" (Euclidean, of all weights), "logits per norm"
            or "Gini" (in [0, 1]).
        control: The control's value, in the same unit; None when there is none.
        compared_with: What the control is, in words.
        decides: Whether a rule reads this number; lens readings never decide.
    """

    name: str
    split: str
    site: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: Unit
    control: float | None
    compared_with: str
    decides: bool

    @classmethod
    def of(
        cls,
        name: str,
        split: str,
        number: Share | Estimate,
        *,
        site: str = "",
        unit: Unit = "share",
        control: float | None = None,
        compared_with: str = "",
        decides: bool = False,
    ) -> "Evidence":
        """A row for a number with its interval."""
        return cls(
            name=name,
            split=split,
            site=site,
            value=number.value if number.n else None,
            low=number.interval.low,
            high=number.interval.high,
            n=number.n,
            unit=unit,
            control=control,
            compared_with=compared_with,
            decides=decides,
        )

    @classmethod
    def of_weight_norm(cls, norms: WeightNorms) -> "Evidence":
        """A row for the norm of all weights, which is shown and never decides."""
        return cls(
            name="weight norm",
            split="weights",
            site="",
            value=norms.total,
            low=None,
            high=None,
            n=sum(norms.n_weights.values()),
            unit="norm",
            control=None,
            compared_with="",
            decides=False,
        )

    @classmethod
    def of_accuracy(cls, split: str, number: Share, *, chance: float, decides: bool) -> "Evidence":
        """A row for the accuracy on a split."""
        meaning = "the best answer that ignores the question (chance)"
        return cls.of("accuracy", split, number, control=chance, compared_with=meaning, decides=decides)


@dataclass(frozen=True)
class SplitOutcomes:
    """Per-query outcomes of a split, as shares of its queries.

    Attributes:
        split: Name of the split.
        n: Queries read.
        n_in_split: Queries in the split; larger than `n` when it was sampled.
        n_in_training: Queries read that are themselves training items; None where the split is unknown.
        accuracy: Share of right answers.
        shares: Share of queries per outcome; they sum to 1.
    """

    split: str
    n: int
    n_in_split: int
    n_in_training: int | None
    accuracy: float
    shares: dict[str, float]


@dataclass(frozen=True)
class Certificate:
    """The task's split certificate, as shown by a diagnosis.

    Attributes:
        clean: Whether it is proved that no held-out query is a training item.
        leaks: As in `SplitCertificate`, and so for what follows.
        n_queries: By split.
        n_in_training: By split.
        ood_fact_uses: By hop.
        n_mirrored: By split.
        task_hash: Of the task.
        known: Whether it is known which queries were trained on; if not, nothing can be called held out. Diagnoses of
            schema version 4 do not say it, and were all of known splits.
    """

    clean: bool
    leaks: tuple[str, ...]
    n_queries: dict[str, int]
    n_in_training: dict[str, int]
    ood_fact_uses: dict[str, dict[str, float]]
    n_mirrored: dict[str, int]
    task_hash: str
    known: bool = True

    @classmethod
    def of(cls, certificate: SplitCertificate) -> "Certificate":
        """The certificate of a task."""
        return cls(
            known=certificate.is_known,
            clean=certificate.is_clean,
            leaks=certificate.leaks,
            n_queries=dict(certificate.n_queries),
            n_in_training=dict(certificate.n_in_training),
            ood_fact_uses={hop: dict(uses) for hop, uses in certificate.ood_fact_uses.items()},
            n_mirrored=dict(certificate.n_mirrored),
            task_hash=certificate.task_hash,
        )

    @property
    def in_a_word(self) -> str:
        """Whether the split is "clean", "leaked", or "unknown"."""
        if not self.known:
            return "unknown"
        return "clean" if self.clean else "leaked"


def rests_on(
    reasons: Sequence[Reason], evidence: Sequence[Evidence], row_of: Mapping[str, tuple[str, str]]
) -> tuple[tuple[int, ...], ...]:
    """The rows of evidence behind each reason.

    Args:
        reasons: The reasons.
        evidence: All rows.
        row_of: Quantity -> name and split of the rows that state it.

    Returns:
        For each reason the numbers of its rows, from 0.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(evidence):
        rows.setdefault((row.name, row.split), []).append(number)
    return tuple(
        tuple(number for quantity in reason.quantities for number in rows.get(row_of[quantity], ()))
        for reason in reasons
    )


class Diagnosis(Reported, BaseModel):
    """A verdict on one checkpoint, the evidence for it, and what would change it.

    Attributes:
        source: What was diagnosed, such as a path.
        family: Which kind of task: "two_hop" or "modular".
        task: The task in words.
        verdict: The verdict.
        confidence: Share of bootstrap resamples of the queries that give the verdict; of an inconclusive one, the share
            of the most frequent candidate.
        candidates: Share of resamples per verdict.
        reasons: Why, in plain sentences, deciding ones first.
        rests_on: For each reason, the rows of `evidence` that state its numbers, from 0.
        warnings: What weakens or limits the verdict.
        outcomes: Per-query outcomes by split.
        evidence: Every number, with interval, control and n.
        sites: Labels of the sites at which the causal tests were made.
        certificate: The split certificate of the task.
        step: Training step of the checkpoint; None if unknown.
        net: Architecture in words.
        seed: Seed of partners, samples and resamples.
        n_partners: As in `diagnose`; of a modular net it is not used.
        max_queries_per_split: As in `diagnose`.
        n_interventions: Number of patched or ablated answers behind the evidence.
        n_candidates: Among how many the sites (two-hop) or key frequencies (modular) were chosen, on queries that no
            other number is read on.
        schema_version: Version of the JSON form.
        measurements: What the evidence was read from, for figures and for a closer look; not part of the JSON.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid")

    source: str
    family: Literal["two_hop", "modular"]
    task: str
    verdict: Verdict
    confidence: float
    candidates: dict[str, float]
    reasons: tuple[str, ...]
    rests_on: tuple[tuple[int, ...], ...]
    warnings: tuple[str, ...]
    outcomes: tuple[SplitOutcomes, ...]
    evidence: tuple[Evidence, ...]
    sites: tuple[str, ...]
    certificate: Certificate
    step: int | None
    net: str
    seed: int
    n_partners: int
    max_queries_per_split: int
    n_interventions: int
    n_candidates: int
    schema_version: int = SCHEMA_VERSION
    measurements: SkipJsonSchema[Any] = Field(default=None, exclude=True, repr=False)

    def frame(self) -> pd.DataFrame:
        """The evidence, one row per number."""
        return pd.DataFrame(TypeAdapter(tuple[Evidence, ...]).dump_python(self.evidence))

    def number(self, name: str, split: str, site: str = "") -> Evidence:
        """One row of the evidence.

        Args:
            name: As in `Evidence`, such as "accuracy".
            split: Such as "test_ood".
            site: Such as "resid_post 0 @ r1"; empty for a number without a site.

        Returns:
            The row.

        Raises:
            ValueError: If there is none; the message lists the rows of that name, or all names.
        """
        for row in self.evidence:
            if (row.name, row.split, row.site) == (name, split, site):
                return row
        of_name = [f"{(row.split, row.site) if row.site else row.split!r}" for row in self.evidence if row.name == name]
        there = ", ".join(of_name or dict.fromkeys(repr(row.name) for row in self.evidence))
        what = f"{name!r} is there for" if of_name else "there are"
        raise ValueError(f"no evidence {name!r} on {split!r}{f' at {site!r}' if site else ''}; {what} {there}")

    def outcome_frame(self) -> pd.DataFrame:
        """One row per split: n, accuracy and the share of each outcome."""
        return pd.DataFrame(
            {"split": s.split, "n": s.n, "in_training": s.n_in_training, "accuracy": s.accuracy, **s.shares}
            for s in self.outcomes
        )

    def to_json(self, *, indent: int | None = 2) -> str:
        """The diagnosis as JSON that satisfies the schema at `SCHEMA_PATH`."""
        return self.model_dump_json(indent=indent)

    def __repr__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        return f"<Diagnosis of {self.source}{step}: {self.verdict}, confidence {self.confidence:.2f}>"

    def _repr_html_(self) -> str:
        from circuit_lab.report import render_fragment  # upward on purpose: see the layer test

        return render_fragment(self)


def diagnosis_schema() -> str:
    """The JSON schema of `Diagnosis.to_json`, as text."""
    schema = Diagnosis.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
