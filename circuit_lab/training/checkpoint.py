"""Checkpoints: one safetensors file that rebuilds net and task, and proves that it did.

Tensors: every weight once, by the name of the first layer that uses it, and `fingerprint/tokens`, `fingerprint/logits`:
the net's logits on fixed inputs, compared at load to notice code that computes another function; a hash notices damaged
weights. Metadata: one JSON object under `circuit_lab`. (One key, because the
order in which safetensors writes several is not fixed, and equal checkpoints shall have equal bytes.)
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet, NetConfig, build_net
from circuit_lab.tasks import Task, TaskConfig, build_task
from circuit_lab.training.run_folder import write_atomically

FORMAT_VERSION = 1
METADATA_KEY = "circuit_lab"
FINGERPRINT = "fingerprint/"
N_FINGERPRINT_ROWS = 16
FINGERPRINT_TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit: other machines add float32 numbers in another order,
which changes the seventh digit; another function changes the first."""
_TASK = TypeAdapter(TaskConfig)


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
                f"checkpoint {self.path} came without a task, so there are no queries to ask it; give one when loading, "
                'such as circuit_lab.load(path, task="modular:p=113") or task="a dataset folder"'
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
    task: dict[str, Any]
    task_hash: str
    weights_hash: str
    step: int = Field(ge=0)
    metrics: dict[str, float]
    recipe: dict[str, Any]

    def checkpoint(self, path: Path, *, net: HookedNet, task: Task) -> Checkpoint:
        """The checkpoint of this record, with its net and task."""
        return Checkpoint(
            net=net,
            given_task=task,
            step=self.step,
            metrics=self.metrics,
            recipe=self.recipe,
            path=path,
            weights_hash=self.weights_hash,
        )


def save_checkpoint(
    path: str | Path,
    *,
    net: HookedNet,
    task: Task,
    step: int,
    metrics: Mapping[str, float],
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file, usually `*.safetensors`; parent folders are made.
        net: The net.
        task: The task.
        step: Optimiser steps so far.
        metrics: Accuracies by split.
        recipe: The recipe's tables, if there is one.

    Returns:
        The path written.
    """
    path = Path(path)
    weights = {name: weight.cpu().contiguous() for name, weight in net.unique_state_dict().items()}
    record = {
        "format_version": FORMAT_VERSION,
        "net": net.cfg.model_dump(mode="json"),
        "task": task.config.model_dump(mode="json"),
        "task_hash": task.certificate.task_hash,
        "weights_hash": weights_hash(weights),
        "step": step,
        "metrics": dict(metrics),
        "recipe": dict(recipe) if recipe is not None else {},
    }
    tokens = task.training.tokens[:N_FINGERPRINT_ROWS]
    tensors = {**weights, FINGERPRINT + "tokens": tokens.contiguous(), FINGERPRINT + "logits": _logits(net, tokens)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(record, sort_keys=True)}))
    return path


def load_checkpoint(path: str | Path, *, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint, rebuild its net and task, and check both. Nothing is unpickled.

    Args:
        path: The checkpoint file.
        device: Where the net goes.

    Returns:
        The checkpoint.

    A file that is missing, truncated, no checkpoint or of an unknown version, or that does not rebuild what it was
    written from, is a ValueError that says which.
    """
    path = Path(path)
    record, tensors = read_parts(path)
    net = empty_net(path, record, tensors)
    fill_net(net, path, record, tensors)
    return record.checkpoint(path, net=net.to(device), task=rebuild_task(path, record))


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, whatever the order."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Args:
        path: The file.

    Returns:
        Metadata (empty if there is none) and tensors by name, on the CPU.

    Raises:
        ValueError: If the file is missing, truncated or no safetensors file.
    """
    if path.is_dir():
        raise ValueError(f"no checkpoint at {path}: it is a folder; give the .safetensors file in it")
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error


def read_parts(path: Path) -> tuple[Record, dict[str, Tensor]]:
    """The record and the tensors of a checkpoint, with version, keys and types checked.

    Args:
        path: The checkpoint file.

    Returns:
        The record, and the tensors by name: weights and fingerprint.

    Raises:
        ValueError: If the file is missing, truncated, no checkpoint or of an unknown version; says which.
    """
    metadata, tensors = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file but no circuit_lab checkpoint: its metadata has no key {METADATA_KEY!r}"
        )
    try:
        record = json.loads(metadata[METADATA_KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"checkpoint {path}: its metadata is not JSON: {error}") from error
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {path}: format version {version!r} is unknown; this circuit_lab reads version {FORMAT_VERSION}"
        )
    fields = Record.model_fields.keys()
    missing, unknown = sorted(fields - record.keys()), sorted(record.keys() - fields)
    if missing or unknown:
        raise ValueError(f"checkpoint {path}: metadata keys missing: {missing}, unknown: {unknown}")
    try:
        return Record.model_validate(record), tensors
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"checkpoint {path}: metadata {place}: {first['msg']} (got {first['input']!r})") from error


def rebuild_task(path: Path, record: Record) -> Task:
    """The task of a checkpoint, which must be the one it was trained on.

    Args:
        path: The checkpoint file, named in errors.
        record: Its record.

    Returns:
        The task.

    Raises:
        ValueError: If the config is not valid, or the task it builds is another one.
    """
    try:
        task = build_task(_TASK.validate_python(record.task))
    except ValidationError as error:
        raise ValueError(f"checkpoint {path}: its task is not valid: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: its task cannot be rebuilt: {error}") from error
    if task.certificate.task_hash != record.task_hash:
        raise ValueError(
            f"checkpoint {path}: its task rebuilds to hash {task.certificate.task_hash}, but it was trained on "
            f"{record.task_hash}; the file is damaged or from an incompatible version of circuit_lab"
        )
    return task


def empty_net(path: Path, record: Record, tensors: Mapping[str, Tensor]) -> HookedNet:
    """A net of a checkpoint's config and dtype, without its weights.

    Args:
        path: The checkpoint file, named in errors.
        record: Its record.
        tensors: Its tensors.

    Returns:
        The net in `eval` mode, on the CPU, with initial weights; fill it with `fill_net`.

    Raises:
        ValueError: If the config is not valid.
    """
    try:
        config = NetConfig.model_validate(record.net)
        _, saved = _fingerprint(tensors, d_vocab_out=config.d_vocab_out)
        return build_net(config).to(saved.dtype).eval()
    except ValidationError as error:
        raise ValueError(f"checkpoint {path}: its net config is not valid: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from error


def fill_net(net: HookedNet, path: Path, record: Record, tensors: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's weights into a net of its config; its logits must be those the file was saved with.

    Args:
        net: The net, on the CPU, in the dtype of the weights.
        path: The checkpoint file, named in errors.
        record: Its record.
        tensors: Its tensors.

    Raises:
        ValueError: If the weights are not this net's, are damaged, or give other logits.
    """
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(FINGERPRINT)}
    try:
        tokens, saved = _fingerprint(tensors, d_vocab_out=net.cfg.d_vocab_out)
        net.load_unique_state_dict(weights)
        logits = _logits(net, tokens)
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from error
    if weights_hash(weights) != record.weights_hash:
        raise ValueError(f"checkpoint {path}: its weights are damaged: their hash is not the one they were saved with")
    difference = float((logits - saved).abs().max() / saved.abs().max().clamp(min=1e-30))
    if not difference <= FINGERPRINT_TOLERANCE:
        raise ValueError(
            f"checkpoint {path}: its logits on the fingerprint inputs differ by {difference:.2g} of the largest logit "
            f"from those it was saved with (tolerance {FINGERPRINT_TOLERANCE}); this version of circuit_lab computes "
            "another function from the same weights"
        )


def _fingerprint(tensors: Mapping[str, Tensor], *, d_vocab_out: int) -> tuple[Tensor, Tensor]:
    """The fixed inputs and the logits on them, their form checked."""
    tokens, logits = (tensors.get(FINGERPRINT + part) for part in ("tokens", "logits"))
    if tokens is None or logits is None:
        raise ValueError(f"it has no {FINGERPRINT}tokens and {FINGERPRINT}logits to check it by")
    _check_fingerprint_form(tokens, logits, d_vocab_out=d_vocab_out)
    return tokens, logits


def _check_fingerprint_form(tokens: Tensor, logits: Tensor, *, d_vocab_out: int) -> None:
    """Fixed inputs are rows of token ids, at least one, and each position has a logit per output token."""
    form = f"{list(tokens.shape)} {tokens.dtype} tokens and {list(logits.shape)} {logits.dtype} logits"
    if tokens.ndim != 2 or tokens.numel() == 0 or tokens.dtype != torch.long or not logits.is_floating_point():
        raise ValueError(f"its fingerprint must be [n, pos] token ids with floating-point logits, got {form}")
    if logits.shape != (*tokens.shape, d_vocab_out):
        raise ValueError(f"its fingerprint must have {d_vocab_out} logits for each token, got {form}")


@torch.no_grad()
def _logits(net: HookedNet, tokens: Tensor) -> Tensor:
    """Logits on the fingerprint inputs, on the CPU, whatever the net's mode."""
    return net(tokens).cpu().contiguous()
