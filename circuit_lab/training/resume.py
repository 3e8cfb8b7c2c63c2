"""Saving and restoring a run in the middle: weights, their average, the optimiser's moments and the step, nothing else.

The batches are a function of the step, so there is no random state to keep.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet
from circuit_lab.tasks.safe_files import check_inside
from circuit_lab.training.checkpoint import METADATA_KEY, check_finite, read_tensors, weights_hash
from circuit_lab.training.optimizer import MOMENTS, FlatAdamW
from circuit_lab.training.run_folder import RESUME, write_atomically
from circuit_lab.training.weight_average import WeightAverage

AVERAGE = "average"
_START_AGAIN = "delete it to train this run from the start"


class _Saved(BaseModel):
    """The metadata; the hash is over step and tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    step: int = Field(ge=1)
    state_hash: str


def save_resume(
    run: Path, *, net: HookedNet, optimizer: FlatAdamW, step: int, average: WeightAverage | None = None
) -> None:
    """Write the state after `step` steps; a kill, or an error, leaves the state before it.

    Args:
        run: The run folder.
        net: The net.
        optimizer: Its optimiser.
        step: Steps done so far, at least 1.
        average: The average of its weights; None for a run without one.

    A weight or moment that is not finite, for training diverged, is an InputError; a full disk an OSError.
    """
    tensors = state_tensors(net=net, optimizer=optimizer, average=average)
    check_finite(tensors, f"state of {run} after step {step}")
    saved = _Saved(step=step, state_hash=_state_hash(step, tensors))
    write_atomically(run / RESUME, safetensors.torch.save(tensors, {METADATA_KEY: saved.model_dump_json()}))


def state_tensors(*, net: HookedNet, optimizer: FlatAdamW, average: WeightAverage | None) -> dict[str, Tensor]:
    """Copies of weights, moments and average, on the CPU; `put_state` takes them."""
    weights = {f"weight/{name}": weight.detach() for name, weight in net.named_parameters()}
    kept = weights | _kept_beside(optimizer, average)
    # Not views: pickled for another process, each would take its whole vector along.
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in kept.items()}


def put_state(
    tensors: Mapping[str, Tensor],
    step: int,
    *,
    net: HookedNet,
    optimizer: FlatAdamW,
    average: WeightAverage | None,
) -> None:
    """Put the state after `step` steps, as `state_tensors` has it, into a fresh net, optimiser and average."""
    weights = {name: tensors[f"weight/{name}"] for name, _ in net.named_parameters()}
    net.load_unique_state_dict(net.unique_state_dict() | weights)  # with what is fixed, such as initial streams
    for name, kept in _kept_beside(optimizer, average).items():
        kept.copy_(tensors[name])
    for counter in optimizer.n_steps:
        counter.fill_(step)


def _kept_beside(optimizer: FlatAdamW, average: WeightAverage | None) -> dict[str, Tensor]:
    """What is kept of each weight besides itself, in its place."""
    kinds = {moment: optimizer.by_name(vectors) for moment, vectors in optimizer.moments.items()}
    if average is not None:
        kinds[AVERAGE] = average.tensors
    return {f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}


def load_resume(
    run: Path, *, net: HookedNet, optimizer: FlatAdamW, n_steps: int, average: WeightAverage | None = None
) -> int:
    """Put the saved state into a fresh net and optimiser.

    Args:
        run: The run folder.
        net: The net, of the same config, the same parts of it frozen.
        optimizer: Its optimiser, before any step.
        n_steps: Steps of the whole run; the saved step is none after the last.
        average: The average of its weights, to be filled as well; None for a run without one.

    Returns:
        Steps done so far; 0 when nothing was saved yet.

    Raises:
        InputError: If the file is damaged or of another net; says what is wrong with it.
    """
    path = run / RESUME
    if not os.path.lexists(path):
        return 0
    check_inside(run, RESUME)
    metadata, tensors = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise InputError(f"{path} is no resume state: its metadata has no key {METADATA_KEY!r}; {_START_AGAIN}")
    try:
        saved = _Saved.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise InputError(f"{path} is damaged: its {place:.80}: {first['msg']:.200}; {_START_AGAIN}") from error
    if saved.step > n_steps:
        raise InputError(f"{path} is of step {saved.step}, but the run has {n_steps} steps; {_START_AGAIN}")
    _check_state(path, tensors, net=net, is_averaged=average is not None)
    if saved.state_hash != _state_hash(saved.step, tensors):
        raise InputError(f"{path} is damaged: its content is not what was saved; {_START_AGAIN}")
    check_finite(tensors, f"{path}")
    put_state(tensors, saved.step, net=net, optimizer=optimizer, average=average)
    return saved.step


def _state_hash(step: int, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{step} {weights_hash(tensors)}".encode()).hexdigest()


def _check_state(path: Path, tensors: Mapping[str, Tensor], *, net: HookedNet, is_averaged: bool) -> None:
    """Every parameter has its weight, moments and average, of its shape and type, and nothing else is there."""
    always = ("weight", AVERAGE) if is_averaged else ("weight",)
    expected = {
        f"{kind}/{name}": p for name, p in net.named_parameters() for kind in always + MOMENTS * p.requires_grad
    }
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise InputError(f"{path} is damaged or of another net: missing {missing}, unknown {unknown}; {_START_AGAIN}")
    for name, parameter in expected.items():
        saved = tensors[name]
        if saved.shape != parameter.shape or saved.dtype != parameter.dtype:
            raise InputError(
                f"{path} is damaged or of another net: {name} must be {list(parameter.shape)} {parameter.dtype}, "
                f"got {list(saved.shape)} {saved.dtype}; {_START_AGAIN}"
            )
