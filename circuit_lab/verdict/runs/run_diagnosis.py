"""The result of diagnosing a run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import pandas as pd
from pydantic import BaseModel, ConfigDict
from pydantic.dataclasses import dataclass

from circuit_lab.verdict.diagnosis import Certificate
from circuit_lab.verdict.reported import Reported
from circuit_lab.verdict.runs.alarms import Alarm
from circuit_lab.verdict.runs.answers import Answer
from circuit_lab.verdict.runs.crossings import Crossing, Lag, TimelinePoint, lag
from circuit_lab.verdict.runs.phases import Phases
from circuit_lab.verdict.verdicts import Verdict

RUN_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StepVerdict:
    """The verdict on one checkpoint of a run.

    Attributes:
        step: Training step.
        verdict: The verdict.
        confidence: As in `Diagnosis`.
        checkpoint: The file.
        weights_hash: SHA-256 of its weights.
    """

    step: int
    verdict: Verdict
    confidence: float
    checkpoint: str
    weights_hash: str


class RunDiagnosis(Reported, BaseModel):
    """What happened in a run, checkpoint by checkpoint, and in which order.

    It keeps of each checkpoint's diagnosis the verdict and the numbers of the timeline, so that its size is small
    whatever a diagnosis holds; `diagnose(verdict.checkpoint)` gives one of them whole.

    Attributes:
        source: The run folder.
        family: Which kind of task: "two_hop" or "modular".
        task: The task in words.
        net: Architecture in words.
        seed: Seed of every diagnosis.
        verdicts: The verdict at each checkpoint, in order of step.
        timeline: Every quantity at every checkpoint.
        crossings: When each quantity reached each of its levels.
        lags: From each crossing to the next, of the first level of every quantity and of the departure from chance.
        phases: Memorisation, circuit formation, clean-up.
        alarms: What was lost, and leaked test sets.
        answers: Was the circuit there before the accuracy rose, and before it was solved?
        warnings: What weakens or limits the reading of the run.
        certificate: The split certificate of the task.
        schema_version: Version of the JSON form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    family: str
    task: str
    net: str
    seed: int
    verdicts: tuple[StepVerdict, ...]
    timeline: tuple[TimelinePoint, ...]
    crossings: tuple[Crossing, ...]
    lags: tuple[Lag, ...]
    phases: Phases
    alarms: tuple[Alarm, ...]
    answers: tuple[Answer, ...]
    warnings: tuple[str, ...]
    certificate: Certificate
    schema_version: int = RUN_SCHEMA_VERSION

    @property
    def circuit_came_first(self) -> Answer:
        """Was the circuit there before the accuracy rose?"""
        return self.answers[0]

    def frame(self) -> pd.DataFrame:
        """The timeline: one row per step and quantity, with value, low, high, n, threshold and unit."""
        return _frame(self.timeline)

    def verdict_frame(self) -> pd.DataFrame:
        """One row per checkpoint: step, verdict, confidence, and the value of every quantity."""
        verdicts = _frame(self.verdicts)[["step", "verdict", "confidence"]]
        timeline = self.frame()
        values = timeline.pivot(index="step", columns="quantity", values="value")
        return verdicts.join(values[list(dict.fromkeys(timeline["quantity"]))], on="step")

    def crossing_frame(self) -> pd.DataFrame:
        """One row per quantity and level: threshold, step, after, by, and whether it lasted."""
        frame = _frame(self.crossings).drop(columns="later").assign(lasted=[c.lasted for c in self.crossings])
        return frame.astype(dict.fromkeys(("step", "after", "by"), "Int64"))

    def crossing(self, quantity: str, level: str) -> Crossing:
        """The crossing of a quantity and level.

        Args:
            quantity: Such as "OOD".
            level: Such as "solved".

        Returns:
            The crossing, reached or not.

        Raises:
            ValueError: If there is none of that name; the message lists those there are.
        """
        named = {(c.quantity, c.level): c for c in self.crossings}
        if (quantity, level) not in named:
            there = ", ".join(f"{name!r} {of!r}" for name, of in named)
            raise ValueError(f"no crossing {quantity!r} {level!r} in this run; there are: {there}")
        return named[quantity, level]

    def lag(self, first: tuple[str, str], second: tuple[str, str]) -> Lag | None:
        """Steps from one crossing to another, each given as (quantity, level); None if one was never reached."""
        return lag(self.crossing(*first), self.crossing(*second))

    def to_json(self, *, indent: int | None = 2) -> str:
        """The diagnosis as JSON; `RunDiagnosis.model_json_schema(mode="serialization")` is its schema."""
        return self.model_dump_json(indent=indent)

    def __repr__(self) -> str:
        n, last = len(self.verdicts), self.verdicts[-1]
        return f"<RunDiagnosis of {self.source}: {n} checkpoints, {last.verdict} at step {last.step}>"

    def _repr_html_(self) -> str:
        from circuit_lab.report.display import render_run  # upward on purpose: see the layer test

        return render_run(self)


def _frame(rows: Iterable[object]) -> pd.DataFrame:
    records: Sequence[dict] = [asdict(row) for row in rows]  # type: ignore[call-overload]
    return pd.DataFrame(records)
