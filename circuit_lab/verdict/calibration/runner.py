"""Diagnosing controls, one line of JSON for each, so that a stopped calibration goes on where it was."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.tasks import Task
from circuit_lab.training import write_atomically
from circuit_lab.training.checkpoint import weights_hash
from circuit_lab.verdict.calibration.controls import Control, Kind, Perturbation
from circuit_lab.verdict.calibration.stored_readings import StoredReadings, readings_of
from circuit_lab.verdict.diagnose import diagnose
from circuit_lab.verdict.settings import Settings
from circuit_lab.verdict.source_hash import source_hash
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS, THRESHOLDS
from circuit_lab.verdict.verdicts import Verdict


@dataclass(frozen=True)
class Trial:
    """A control and how it is diagnosed."""

    control: Control
    settings: Settings


class Record(BaseModel):
    """What came of one trial: a line of the results file.

    Attributes:
        name: Name of the control.
        family: Its family.
        kind: What sort of net it is.
        held_out: Whether its family belongs to the held-out half.
        truth: The right verdict; None if it cannot be known.
        scored: Whether it counts in the F1 score.
        perturbation: What was done to which other control's net.
        settings: How it was diagnosed.
        verdict: The verdict.
        confidence: The diagnosis's confidence in it.
        candidates: Share of resamples per verdict.
        readings: The numbers that the rules read.
        sites: Where the causal tests were made.
        seconds: Processor time of the diagnosis, in seconds.
        key: Hash of weights, task, settings, thresholds and measuring code: equal keys, equal results.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    kind: Kind
    held_out: bool
    truth: Verdict | None
    scored: bool
    perturbation: Perturbation | None
    settings: Settings
    verdict: Verdict
    confidence: float
    candidates: dict[str, float]
    readings: StoredReadings
    sites: tuple[str, ...]
    seconds: float
    key: str

    @property
    def best_guess(self) -> Verdict:
        """The verdict that `confidence` speaks of: of an inconclusive one, the most frequent candidate."""
        if self.verdict != Verdict.INCONCLUSIVE:
            return self.verdict
        return Verdict(max(self.candidates, key=lambda name: self.candidates[name]))


def run_controls(trials: Sequence[Trial], out: Path, *, n_jobs: int = 1, progress: bool = True) -> tuple[Record, ...]:
    """Diagnose controls, adding a line to `out` as each is done; those already there with equal keys are not run again.

    At most one net for each process is in memory.

    Args:
        trials: What to run; names with their settings must be unique.
        out: The results file, one JSON object a line; made if need be. In the end it holds exactly these trials.
        n_jobs: Processes; each computes on one thread.
        progress: Whether to show a bar with the time left, where there is a terminal.

    Returns:
        The records, in the order of the trials.

    A line of `out` that is no record is a ValueError, and so are two trials of the same name and settings.
    """
    _refuse_repeated(trials)
    known = {record.key: record for record in read_records(out)} if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    bar = tqdm(total=len(trials), desc="controls", unit="net", disable=None if progress else True, smoothing=0.02)
    with bar, out.open("a", encoding="utf-8") as lines:
        for record in _in_order(trials, known, n_jobs):
            if record.key not in known:
                lines.write(record.model_dump_json() + "\n")
                lines.flush()
            records.append(record)
            bar.update()
    _write_all(records, out)
    return tuple(records)


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a results file. A last line cut short by an interruption is left out.

    Args:
        path: The file.

    Returns:
        The records, in the file's order.

    Raises:
        ValueError: If another line is no record.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    complete, _unfinished = lines[:-1], lines[-1]
    records = []
    for number, line in enumerate(complete, start=1):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(
                f"{path}, line {number} is no result of a control: {problem['msg']} "
                f"(at {'.'.join(map(str, problem['loc'])) or 'the whole line'}); delete the file to start afresh"
            ) from error
    return tuple(records)


def diagnose_control(trial: Trial, known: Mapping[str, Record]) -> Record:
    """Diagnose one control, unless a record with the same key is known.

    Args:
        trial: The control and how to diagnose it.
        known: Records by key.

    Returns:
        The known record, or a new one.
    """
    control, settings = trial.control, trial.settings
    net, task = control.build()
    key = content_key(net, task, control, settings)
    if key in known:
        return known[key]
    start = time.process_time()
    diagnosis = diagnose((net, task), **asdict(settings))
    return Record(
        name=control.name,
        family=control.family,
        kind=control.kind,
        held_out=control.held_out,
        truth=control.truth,
        scored=control.scored,
        perturbation=control.perturbation,
        settings=settings,
        verdict=diagnosis.verdict,
        confidence=diagnosis.confidence,
        candidates=diagnosis.candidates,
        readings=readings_of(diagnosis),
        sites=diagnosis.sites,
        seconds=round(time.process_time() - start, 3),
        key=key,
    )


def content_key(net: HookedSharedTransformer, task: Task, control: Control, settings: Settings) -> str:
    """Hash of everything that a record depends on."""
    described: dict[str, Any] = {
        "weights": weights_hash(net.unique_state_dict()),
        "net": net.cfg.model_dump(mode="json"),
        "task": task.certificate.task_hash,
        "settings": asdict(settings),
        "thresholds": [asdict(THRESHOLDS), asdict(MODULAR_THRESHOLDS)],
        "code": source_hash(),
        "stated": [control.name, control.family, control.kind, control.truth, control.held_out, control.scored],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _in_order(trials: Sequence[Trial], known: Mapping[str, Record], n_jobs: int) -> Iterator[Record]:
    """The records in the order of the trials, from this process or from several."""
    if n_jobs == 1:
        for trial in trials:
            yield diagnose_control(trial, known)
        return
    from joblib import Parallel, delayed, parallel_config

    # joblib sends `known` with every job: the records of this control alone are all it can need.
    by_name: dict[str, dict[str, Record]] = {}
    for record in known.values():
        by_name.setdefault(record.name, {})[record.key] = record
    with parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = Parallel(n_jobs=n_jobs, return_as="generator")
        for record in parallel(delayed(_on_one_thread)(trial, by_name.get(trial.control.name, {})) for trial in trials):
            assert isinstance(record, Record), "every job gives a record"
            yield record


def _on_one_thread(trial: Trial, known: Mapping[str, Record]) -> Record:
    torch.set_num_threads(1)
    return diagnose_control(trial, known)


def _write_all(records: Iterable[Record], out: Path) -> None:
    """Put the file in order, without lines of controls that are no longer run."""
    write_atomically(out, "".join(record.model_dump_json() + "\n" for record in records).encode())


def _refuse_repeated(trials: Sequence[Trial]) -> None:
    seen: set[tuple[str, Settings]] = set()
    for trial in trials:
        identity = (trial.control.name, trial.settings)
        if identity in seen:
            raise ValueError(
                f"control {trial.control.name!r} is listed twice with {trial.settings}; give each its name"
            )
        seen.add(identity)
