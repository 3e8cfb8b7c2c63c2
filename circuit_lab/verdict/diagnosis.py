"""The result of a diagnosis: a verdict with the evidence that carries it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from circuit_lab.measures import BridgeRecovery, CausalTests, LocatedSites
from circuit_lab.verdict.rules import Verdict

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("diagnosis.schema.json")
"""The published JSON schema of `Diagnosis.to_json`; a test holds it equal to the code."""


@dataclass(frozen=True)
class Evidence:
    """One number that the diagnosis rests on or shows.

    Attributes:
        name: What was measured: `accuracy`, `hop1`, `hop2`, `interchange`, `mediated`, `lens bridge top1` ...
        split: On which queries.
        site: Where, such as `resid_post 0 @ r1`; empty when the number has no site.
        value: Share of queries in [0, 1]; None when no query could be measured.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end.
        n: Queries.
        control: The control's value in [0, 1]; None when there is none.
        compared_with: What the control is, in words.
        decides: Whether a rule reads this number; lens readings never decide.
    """

    name: str
    split: str
    site: str
    value: float | None
    low: float
    high: float
    n: int
    control: float | None
    compared_with: str
    decides: bool


@dataclass(frozen=True)
class SplitOutcomes:
    """Per-query outcomes of a split, as shares of its queries.

    Attributes:
        split: Name of the split.
        n: Queries read.
        n_in_split: Queries in the split; larger than `n` when it was sampled.
        n_in_training: Queries read that are themselves training items.
        accuracy: Share of right answers.
        shares: Share of queries per outcome; they sum to 1.
    """

    split: str
    n: int
    n_in_split: int
    n_in_training: int
    accuracy: float
    shares: dict[str, float]


@dataclass(frozen=True)
class Certificate:
    """The task's split certificate, as shown by a diagnosis."""

    clean: bool
    leaks: tuple[str, ...]
    n_queries: dict[str, int]
    n_in_training: dict[str, int]
    ood_fact_uses: dict[str, dict[str, float]]
    task_hash: str


@dataclass(frozen=True, eq=False)
class Measurements:
    """What the evidence was read from, for figures and for a closer look; not part of the JSON.

    Attributes:
        located: Candidate sites with their hop-1 rates on training queries.
        tests: The causal tests per split, at the located sites.
        lens: Bridge recovery per split.
        queries: Per split a table with one row per query: tokens, answers, the three tests, outcome.
    """

    located: LocatedSites
    tests: Mapping[str, CausalTests]
    lens: Mapping[str, BridgeRecovery]
    queries: Mapping[str, pd.DataFrame]


class Diagnosis(BaseModel):
    """A verdict on one checkpoint, the evidence for it, and what would change it.

    Attributes:
        source: What was diagnosed, such as a path.
        verdict: The verdict.
        confidence: Share of bootstrap resamples of the queries that give the verdict; of an inconclusive one, the share
            of the most frequent candidate.
        candidates: Share of resamples per verdict.
        reasons: Why, in plain sentences, deciding ones first.
        warnings: What weakens or limits the verdict.
        outcomes: Per-query outcomes by split.
        evidence: Every number, with interval, control and n.
        sites: Labels of the located sites.
        certificate: The split certificate of the task.
        step: Training step of the checkpoint; None if unknown.
        net: Architecture in words.
        seed: Seed of partners, samples and resamples.
        n_transplants: Number of patched forward passes behind the evidence.
        schema_version: Version of the JSON form.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid")

    source: str
    verdict: Verdict
    confidence: float
    candidates: dict[str, float]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    outcomes: tuple[SplitOutcomes, ...]
    evidence: tuple[Evidence, ...]
    sites: tuple[str, ...]
    certificate: Certificate
    step: int | None
    net: str
    seed: int
    n_transplants: int
    schema_version: int = SCHEMA_VERSION
    measurements: SkipJsonSchema[Any] = Field(exclude=True, repr=False)

    def frame(self) -> pd.DataFrame:
        """The evidence, one row per number."""
        return pd.DataFrame(TypeAdapter(tuple[Evidence, ...]).dump_python(self.evidence))

    def outcome_frame(self) -> pd.DataFrame:
        """One row per split: n, accuracy and the share of each outcome."""
        return pd.DataFrame(
            {"split": s.split, "n": s.n, "in_training": s.n_in_training, "accuracy": s.accuracy, **s.shares}
            for s in self.outcomes
        )

    def to_json(self, *, indent: int | None = 2) -> str:
        """The diagnosis as JSON that satisfies the schema at `SCHEMA_PATH`."""
        return self.model_dump_json(indent=indent)

    def report(self, path: str | Path) -> Path:
        """Write the diagnosis as one HTML page that opens without a network.

        Args:
            path: File to write; parent folders are made.

        Returns:
            The path written.
        """
        from circuit_lab.report import write_report  # upward on purpose: see the layer test

        return write_report([self], path)

    def _repr_html_(self) -> str:
        from circuit_lab.report import render_fragment  # upward on purpose: see the layer test

        return render_fragment(self)


def diagnosis_schema() -> str:
    """The JSON schema of `Diagnosis.to_json`, as text."""
    schema = Diagnosis.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
