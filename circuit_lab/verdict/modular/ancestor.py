"""Had an earlier state of these weights grokked? The parent that a run started from, and the run's own past.

Ungrokking needs a net that *had* grokked; never generalising on few pairs is memorising. So the earlier state is itself
diagnosed, on its own task. Where a parent's file is gone, what the run recorded of its accuracy is all there is.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from circuit_lab.tasks import ModularTask
from circuit_lab.training import (
    Checkpoint,
    ParentRecipe,
    checkpoint_path,
    load_checkpoint,
    read_metrics,
    resolve_checkpoint,
)
from circuit_lab.verdict.diagnosis import Diagnosis
from circuit_lab.verdict.modular.evidence import CIRCUIT_ROW
from circuit_lab.verdict.subject import Subject
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS
from circuit_lab.verdict.verdicts import Verdict

_HELD_OUT = "test_unmirrored"


@dataclass(frozen=True)
class Ancestor:
    """An earlier state of the same weights.

    Attributes:
        description: What and where it is, with its held-out accuracy.
        had_grokked: Whether it is a true circuit, or, unverified, had solved its held-out pairs.
        verified: Whether it was diagnosed, rather than taken from a record.
    """

    description: str
    had_grokked: bool
    verified: bool


def find_ancestor(checkpoint: Checkpoint | None, diagnose_subject: Callable[[Subject], Diagnosis]) -> Ancestor | None:
    """The earlier state of a checkpoint's weights that did best on held-out pairs.

    Args:
        checkpoint: The checkpoint; None for a net in memory, whose past is unknown.
        diagnose_subject: Diagnoses an earlier state, without asking for its own past.

    Returns:
        The best earlier checkpoint of the same run if that had solved its held-out pairs, else the run's parent; None
        where there is neither.

    A recorded parent that makes no sense is a ValueError.
    """
    if checkpoint is None:
        return None
    earlier = _best_earlier(checkpoint)
    if earlier is not None:
        return _diagnosed(earlier, f"step {earlier.step} of the same run", diagnose_subject)
    if "parent" not in checkpoint.recipe:
        return None
    record = _read_record(checkpoint)
    parent = _load_parent(record)
    if parent is None:
        accuracy = (record.accuracy or {}).get(_HELD_OUT, float("nan"))
        return Ancestor(
            description=f"{record.checkpoint} (not found; by the run's record held-out accuracy {accuracy:.2f})",
            had_grokked=accuracy >= MODULAR_THRESHOLDS.solved,
            verified=False,
        )
    return _diagnosed(parent, f"{record.checkpoint}, step {parent.step}", diagnose_subject)


def _diagnosed(checkpoint: Checkpoint, name: str, diagnose_subject: Callable[[Subject], Diagnosis]) -> Ancestor:
    subject = Subject(net=checkpoint.net, task=checkpoint.task, source=name, checkpoint=None)
    diagnosis = diagnose_subject(subject)
    split = next(e.split for e in diagnosis.evidence if e.name == CIRCUIT_ROW)
    which = "held-out accuracy" if checkpoint.task.certificate.is_known else "accuracy on all pairs"
    return Ancestor(
        description=f"{name} ({diagnosis.verdict}, {which} {diagnosis.number('accuracy', split).value:.2f})",
        had_grokked=diagnosis.verdict == Verdict.TRUE_CIRCUIT,
        verified=True,
    )


def _best_earlier(checkpoint: Checkpoint) -> Checkpoint | None:
    """The earlier checkpoint of the same run folder that did best on held-out pairs, if it had solved them."""
    run = checkpoint.path.resolve().parent.parent
    if checkpoint.path.resolve() != checkpoint_path(run, checkpoint.step):
        return None
    kept = {
        record["step"]: record.get(f"accuracy/{_HELD_OUT}", 0.0)
        for record in read_metrics(run)
        if record["step"] < checkpoint.step and checkpoint_path(run, record["step"]).is_file()
    }
    if not kept or max(kept.values()) < MODULAR_THRESHOLDS.solved:
        return None
    return load_checkpoint(checkpoint_path(run, max(kept, key=lambda step: kept[step])))


def _read_record(checkpoint: Checkpoint) -> ParentRecipe:
    """What a run recorded of its parent; a file from elsewhere may hold anything there."""
    try:
        return ParentRecipe.model_validate(checkpoint.recipe["parent"])
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in ("parent", *problem["loc"]))
        raise ValueError(f"checkpoint {checkpoint.path}: recipe {place}: {problem['msg']}") from error


def _load_parent(record: ParentRecipe) -> Checkpoint | None:
    """The parent that a run recorded, if what is found under its name is the same weights."""
    try:
        parent = load_checkpoint(resolve_checkpoint(record.checkpoint))
    except ValueError:
        return None
    return parent if parent.weights_hash == record.weights_hash and isinstance(parent.task, ModularTask) else None
