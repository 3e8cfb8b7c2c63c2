"""Checkpoints: one safetensors file that rebuilds net and task, and proves that it did.

Tensors: every weight once, by the name of the first layer that uses it, and `fingerprint/tokens`, `fingerprint/logits`:
the net's logits on fixed inputs, compared at load to notice code that computes another function. Metadata: one JSON
object under `circuit_lab`, the record. (One key, because the order in which safetensors writes several is not fixed,
and equal checkpoints shall have equal bytes.) Its `file_hash` is over the rest of the record and all tensors, and
notices damage; it is no signature, for whoever writes a file can write its hash.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from circuit_lab.errors import InputError, short
from circuit_lab.nets import HookedNet, build_net, net_config
from circuit_lab.tasks import Task
from circuit_lab.tasks.safe_files import file_kind
from circuit_lab.training.checkpoint_format import (
    FORMAT_VERSION,
    METADATA_KEY,
    file_hash,
    first_problem,
    migrated,
    parse_record,
    recorded_recipe,
    refuse_climbing_parent,
    table_without_climbing,
    weights_hash,
)
from circuit_lab.training.device import check_dtype, resolve_device
from circuit_lab.training.fingerprint import FINGERPRINT, fingerprint_logits, fingerprint_tokens, read_fingerprint
from circuit_lab.training.recorded_task import check_task_fits, rebuild_task
from circuit_lab.training.run_folder import write_atomically
from circuit_lab.training.tensor_files import read_tensors
from circuit_lab.training.weight_allowance import WeightAllowance

FINGERPRINT_TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit: other machines add float32 numbers in another order,
which changes the seventh digit; another function changes the first."""
_LARGEST_STEP = 2**53
_ALWAYS_ALLOWED_WEIGHTS = 1_000_000
_MAX_LAYERS = 4096


class Origin(BaseModel):
    """Where a checkpoint that was not trained here comes from.

    Attributes:
        format: The dialect it was read from, a name in `circuit_lab.importers.IMPORTERS`.
        file: Name of the file or folder, without the path to it.
        inferred: What was read off shapes or chosen by default, a sentence each.
        ignored: What was left out, a sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    file: str
    inferred: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A net at one step of its training, with the task it is trained on.

    Attributes:
        net: The net, in `eval` mode.
        given_task: The task, rebuilt from its config; None for a foreign checkpoint that came without one.
        step: Optimiser steps so far; 0 where a foreign checkpoint does not say.
        metrics: Accuracies by split, as evaluated when the checkpoint was written.
        recipe: The recipe's tables; empty when the net was not trained by one.
        path: The file.
        weights_hash: SHA-256 of the weights.
        origin: Where a checkpoint that was not trained here comes from; None for one of ours.
    """

    net: HookedNet
    given_task: Task | None
    step: int
    metrics: Mapping[str, float]
    recipe: Mapping[str, Any]
    path: Path
    weights_hash: str
    origin: Origin | None = None

    @property
    def task(self) -> Task:
        """The task; an InputError for a checkpoint that came without one."""
        if self.given_task is None:
            raise InputError(
                f"checkpoint {self.path} came without a task, so there are no queries to ask it; give one when "
                'loading, such as circuit_lab.load(path, task="modular:p=113") or task="a dataset folder"'
            )
        return self.given_task

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path}: step {self.step}, {self.given_task or 'no task'}>"

    def _repr_html_(self) -> str:
        from circuit_lab.report.display import render_checkpoint  # upward on purpose: see the layer test

        return render_checkpoint(self)


class Record(BaseModel):
    """The metadata of a checkpoint; net and task are checked by their own configs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format_version: int
    net: dict[str, Any]
    task: dict[str, Any] | None
    task_hash: str | None
    weights_hash: str
    step: int = Field(ge=0, le=_LARGEST_STEP)
    metrics: dict[str, float]
    recipe: dict[str, Any]
    origin: Origin | None
    file_hash: str

    @model_validator(mode="after")
    def _task_and_its_hash_go_together(self) -> "Record":
        if (self.task is None) != (self.task_hash is None):
            raise ValueError(f"task and task_hash go together, got {self.task!r} and {self.task_hash!r}")
        return self

    def checkpoint(self, path: Path, *, net: HookedNet, task: Task | None) -> Checkpoint:
        """The checkpoint of this record, with its net and task."""
        return Checkpoint(
            net=net,
            given_task=task,
            step=self.step,
            metrics=self.metrics,
            recipe=self.recipe,
            path=path,
            weights_hash=self.weights_hash,
            origin=self.origin,
        )


def save_checkpoint(
    path: str | Path,
    *,
    net: HookedNet,
    task: Task | None,
    step: int,
    metrics: Mapping[str, float],
    recipe: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file, usually `*.safetensors`; parent folders are made.
        net: The net.
        task: The task; None for a foreign net that came without one.
        step: Optimiser steps so far.
        metrics: Accuracies by split.
        recipe: The recipe's tables, if there is one.
        origin: Where a net that was not trained here comes from.

    Returns:
        The path written.

    A weight or logit that is NaN or infinite, and weights of a type that nets do not have, are an InputError. What the
    disk refuses is an OSError, and an older file of that name is what it was.
    """
    path = Path(path)
    file_kind(path, what="checkpoint")  # names what no file can be written over
    weights = {name: weight.cpu().contiguous() for name, weight in net.unique_state_dict().items()}
    for weight in weights.values():
        check_dtype(weight.dtype, torch.device("cpu"), place=f"cannot save {path}")
    check_finite(weights, f"cannot save {path}")
    tokens = fingerprint_tokens(net, task)
    fingerprint = {FINGERPRINT + "tokens": tokens, FINGERPRINT + "logits": fingerprint_logits(net, tokens)}
    check_finite(fingerprint, f"cannot save {path}")
    tensors = {**weights, **fingerprint}
    record = {
        "format_version": FORMAT_VERSION,
        "net": net.cfg.model_dump(mode="json"),
        "task": None if task is None else table_without_climbing(task.config.model_dump(mode="json"), "path"),
        "task_hash": None if task is None else task.certificate.task_hash,
        "weights_hash": weights_hash(weights),
        "step": step,
        "metrics": dict(metrics),
        "recipe": recorded_recipe(recipe if recipe is not None else {}),
        "origin": None if origin is None else origin.model_dump(mode="json"),
    }
    record["file_hash"] = file_hash(record, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(record, sort_keys=True)}))
    return path


def load_checkpoint(path: str | Path, *, device: str = "cpu", task: Task | None = None) -> Checkpoint:
    """Read a checkpoint, rebuild its net and task, and check both. Nothing is unpickled.

    Args:
        path: The checkpoint file.
        device: Where the net goes: "auto", "cpu", "cuda", "mps".
        task: The task, where the checkpoint has none, or its dataset folder is now elsewhere.

    Returns:
        The checkpoint.

    A file that is missing, truncated, damaged, no checkpoint or of an unknown version, that does not rebuild what it
    was written from, and a device that is not there or cannot hold its numbers are an InputError that says which.
    """
    path, where = Path(path), resolve_device(device)
    record, tensors = read_parts(path)
    net = empty_net(path, record, tensors)
    fill_net(net, path, record, tensors)
    check_dtype(next(net.parameters()).dtype, where, place=f"checkpoint {path}")
    known = rebuild_task(path, record.task, record.task_hash, given=task)
    if known is not None:
        check_task_fits(path, net, known)
    return record.checkpoint(path, net=net.to(where), task=known)


def check_finite(weights: Mapping[str, Tensor], place: str) -> None:
    """Refuse NaN and infinite numbers.

    Args:
        weights: Tensors by name.
        place: Where they are, for messages.

    Raises:
        InputError: Names the first tensor that has some, how many, and the first place.
    """
    for name, weight in weights.items():
        is_wrong = ~torch.isfinite(weight)
        n_wrong = int(is_wrong.sum())
        if n_wrong:
            index = is_wrong.nonzero()[0].tolist()
            raise InputError(
                f"{place}: {n_wrong} of the {weight.numel()} numbers of {name} are NaN or infinite, the first "
                f"{name}{index} = {float(weight[tuple(index)])}: training diverged or the file is damaged; take an "
                "earlier checkpoint, or train with a lower learning rate"
            )


def read_parts(path: Path) -> tuple[Record, dict[str, Tensor]]:
    """The record and the tensors of a checkpoint, with version, content hash, keys and types checked.

    Args:
        path: The checkpoint file.

    Returns:
        The record, as of the newest version, and the tensors by name: weights and fingerprint.

    Raises:
        InputError: If the file is missing, truncated, damaged, no checkpoint or of an unknown version; says which.
    """
    metadata, tensors = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise InputError(
            f"{path} is a safetensors file but no circuit_lab checkpoint: its metadata has no key {METADATA_KEY!r}; "
            "read what others trained with circuit_lab.load"
        )
    record = migrated(path, parse_record(path, metadata[METADATA_KEY]), tensors)
    fields = Record.model_fields.keys()
    missing, unknown = sorted(fields - record.keys()), sorted(record.keys() - fields)
    if missing or unknown:
        raise InputError(f"checkpoint {path}: metadata keys missing: {missing}, unknown: {short(unknown)}")
    if record["file_hash"] != file_hash(record, tensors):
        raise InputError(
            f"checkpoint {path} is damaged: its content is not what it was saved with (its hash is another); copy or "
            "download it again"
        )
    try:
        valid = Record.model_validate(record)
    except ValidationError as error:
        raise InputError(f"checkpoint {path}: metadata {first_problem(error)}") from error
    refuse_climbing_parent(path, valid.recipe)
    return valid, tensors


def empty_net(path: Path, record: Record, tensors: Mapping[str, Tensor]) -> HookedNet:
    """A net of a checkpoint's config and dtype, without its weights.

    Args:
        path: The checkpoint file, named in errors.
        record: Its record.
        tensors: Its tensors.

    Returns:
        The net in `eval` mode, on the CPU, with initial weights; fill it with `fill_net`.

    Raises:
        InputError: If the config is not valid, or not that of these weights.
    """
    try:
        config = net_config(record.net)
        _, saved = read_fingerprint(tensors, d_vocab_out=config.d_vocab_out)
        for weight in tensors.values():
            if weight.is_floating_point():
                check_dtype(weight.dtype, torch.device("cpu"), place="it cannot be loaded")
        if config.n_layers > _MAX_LAYERS:
            raise InputError(f"its net config asks for {config.n_layers:,} layers; at most {_MAX_LAYERS:,} are built")
        with WeightAllowance(2 * sum(tensor.numel() for tensor in tensors.values()) + _ALWAYS_ALLOWED_WEIGHTS):
            return build_net(config).to(saved.dtype).eval()
    except ValidationError as error:
        raise InputError(f"checkpoint {path}: its net config is not valid: {first_problem(error)}") from error
    except (ValueError, OverflowError, RuntimeError, MemoryError) as error:
        raise InputError(f"checkpoint {path}: {short(error)}") from error


def fill_net(net: HookedNet, path: Path, record: Record, tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's weights into a net of its config; its logits must be those the file was saved with.

    Args:
        net: The net, on the CPU, in the dtype of the weights.
        path: The checkpoint file, named in errors.
        record: Its record.
        tensors: Its tensors.

    Raises:
        InputError: If the weights are not this net's, are damaged, not finite, or give other logits.
    """
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(FINGERPRINT)}
    try:
        tokens, saved = read_fingerprint(tensors, d_vocab_out=net.cfg.d_vocab_out)
        net.load_unique_state_dict(weights)
        if weights_hash(weights) != record.weights_hash:
            raise InputError("its weights are damaged: their hash is not the one they were saved with")
        check_finite(tensors, "it cannot be loaded")
        logits = fingerprint_logits(net, tokens)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"checkpoint {path}: {short(error)}") from error
    difference = float((logits - saved).abs().max() / saved.abs().max().clamp(min=1e-30))
    if not difference <= FINGERPRINT_TOLERANCE:
        raise InputError(
            f"checkpoint {path}: its logits on the fingerprint inputs differ by {difference:.2g} of the largest logit "
            f"from those it was saved with (tolerance {FINGERPRINT_TOLERANCE}); this version of circuit_lab computes "
            "another function from the same weights"
        )
