"""The files of a run folder, and writing them so that a kill at any instant leaves each whole or absent.

run.toml                 the resolved recipe
metrics.jsonl            one JSON object per evaluation
checkpoints/step-00012000.safetensors
resume.safetensors       weights, optimiser moments and step of the last save
"""

import json
import os
from pathlib import Path
from typing import Any

RECIPE = "run.toml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
RESUME = "resume.safetensors"


def partial_path(path: Path) -> Path:
    """The temporary name under which a file is written."""
    return path.with_name(path.name + ".partial")


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name, sync it to disk, rename."""
    partial = partial_path(path)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint of a step goes."""
    return run / CHECKPOINTS / f"step-{step:08d}.safetensors"


def latest_checkpoint(run: Path) -> Path:
    """The checkpoint of the highest step in a run folder.

    Args:
        run: The run folder.

    Returns:
        Path of the checkpoint file.

    Raises:
        ValueError: If the run has no checkpoint yet.
    """
    checkpoints = sorted((run / CHECKPOINTS).glob("step-*.safetensors"))
    if not checkpoints:
        raise ValueError(f"run folder {run} has no checkpoint yet; train it further")
    return checkpoints[-1]


def append_metrics(run: Path, record: dict[str, Any]) -> None:
    """Add one line to the metrics."""
    with (run / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, oldest first; a last line that a kill cut short is left out."""
    path = run / METRICS
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1]]  # after the last newline stands nothing, or a cut line


def drop_metrics_after(run: Path, step: int) -> None:
    """Forget what was evaluated after a step, because it is about to be trained again."""
    kept = [record for record in read_metrics(run) if record["step"] <= step]
    write_atomically(run / METRICS, "".join(json.dumps(record) + "\n" for record in kept).encode())
