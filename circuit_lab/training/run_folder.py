"""The files of a run folder, and writing them so that a kill at any instant leaves each whole or absent.

run.toml                 the resolved recipe
metrics.jsonl            one JSON object per evaluation
checkpoints/step-00012000.safetensors
resume.safetensors       weights, optimiser moments and step of the last save
.lock, .holder.json      held while a process trains into the folder, and by which (`run_lock`)
"""

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from circuit_lab.errors import InputError
from circuit_lab.tasks.safe_files import check_inside, file_kind, open_regular

RECIPE = "run.toml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
RESUME = "resume.safetensors"
LOCK = ".lock"
HOLDER = ".holder.json"
PARTIAL = ".partial"
_CHECKPOINT = re.compile(r"step-([0-9]+)\.safetensors")
_LEFTOVER = re.compile(
    rf"({re.escape(RECIPE)}|{re.escape(METRICS)}|{re.escape(RESUME)}|{re.escape(HOLDER)}|{_CHECKPOINT.pattern})"
    rf"(\.[0-9a-f]+)?{re.escape(PARTIAL)}"
)
_MAX_METRICS_BYTES = 2**30
_NO_SYNC_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""What some file systems answer to syncing a folder, or to reading one that may only be written."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, synced to disk, renamed.

    Args:
        path: The file; what is there before, a link too, is replaced, never written through.
        content: All of it.

    Raises:
        OSError: If it cannot be written (such as a full disk), with the path; the file is then what it was before, and
            the temporary one is gone.
        KeyboardInterrupt: As it comes, once the temporary file is gone.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:  # "x" makes a new file, so a link planted under the name is not followed
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, KeyboardInterrupt) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(*_reason(error, path, "nothing was lost: what was there before is untouched")) from error
        raise
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            *_reason(error, path, "it is whole, but a power cut may bring back what was there before")
        ) from error


def _reason(error: OSError, path: Path, state: str) -> tuple[int | None, str, str]:
    """What an OSError is made of: its number, what went wrong and what that means, and the file."""
    return error.errno, f"cannot write it: {error.strerror or error}; {state}", str(path)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC_OF_FOLDERS:
            raise


def is_leftover(name: str) -> bool:
    """Whether a name is that of a temporary file of a run, as a killed process leaves it.

    >>> is_leftover("run.toml.0a1b2c3d.partial"), is_leftover("notes.partial")
    (True, False)
    """
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(run: Path) -> None:
    """Remove the temporary files of killed processes; only who holds the run's lock may."""
    for folder in (run, run / CHECKPOINTS):
        if folder.is_dir():
            for name in [entry.name for entry in os.scandir(folder) if is_leftover(entry.name)]:
                (folder / name).unlink(missing_ok=True)


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint of a step goes."""
    return run / CHECKPOINTS / f"step-{step:08d}.safetensors"


def checkpoint_files(run: Path) -> list[Path]:
    """The checkpoint files of a run folder, in order of step.

    Args:
        run: The run folder.

    Returns:
        Their paths; none if there are none, or no folder for them.

    Raises:
        InputError: If the folder cannot be read, or a checkpoint is a link to a place outside it.
    """
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    check_inside(run, CHECKPOINTS)
    try:
        entries = [
            (int(found[1]), entry) for entry in os.scandir(folder) if (found := _CHECKPOINT.fullmatch(entry.name))
        ]
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}; make it readable") from error
    for _, entry in entries:
        if entry.is_symlink():
            check_inside(run, f"{CHECKPOINTS}/{entry.name}")
    return [folder / entry.name for _, entry in sorted(entries, key=lambda item: (item[0], item[1].name))]


def latest_checkpoint(run: Path) -> Path:
    """The checkpoint of the highest step in a run folder.

    Args:
        run: The run folder.

    Returns:
        Path of the checkpoint file.

    Raises:
        InputError: If the run has no checkpoint yet.
    """
    checkpoints = checkpoint_files(run)
    if not checkpoints:
        raise InputError(f"run folder {run} has no checkpoint yet; train it further")
    return checkpoints[-1]


def append_metrics(run: Path, record: dict[str, Any]) -> None:
    """Add one line to the metrics, and see it on disk; on an error (a full disk) the file is as it was.

    Args:
        run: The run folder.
        record: What was measured; `step` says when.

    Raises:
        OSError: If it cannot be written; with the path.
    """
    path = run / METRICS
    try:
        with _opened_for_appending(path) as descriptor:
            size = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, (json.dumps(record) + "\n").encode())
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
    except OSError as error:
        raise OSError(*_reason(error, path, "its earlier lines are untouched")) from error


@contextlib.contextmanager
def _opened_for_appending(path: Path) -> Iterator[int]:
    # A link there is an error: it could lead to any file of the user's. Windows has no such flag.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, oldest first; a last line that a kill cut short is left out.

    Args:
        run: The run folder.

    Returns:
        One record per evaluation, each with an integer `step`; none if there is no such file.

    Raises:
        InputError: If the file cannot be read, or a line is no record.
    """
    path = run / METRICS
    if file_kind(path, what="metrics file") is None:
        return []
    check_inside(run, METRICS)
    with open_regular(path, what="metrics file", max_bytes=_MAX_METRICS_BYTES) as file:
        content = file.read()
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: {error}; restore it, or train in another folder") from error
    # After the last newline stands nothing, or a cut line.
    return [_metrics_record(line, f"{path} line {number}") for number, line in enumerate(lines[:-1], start=1)]


def _metrics_record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is damaged: not JSON ({error}); restore the file or remove the line") from error
    step = record.get("step") if isinstance(record, dict) else None
    if type(step) is not int or step < 0:  # True is an int, and no step
        raise InputError(
            f"{place} is damaged: a record must have a whole number `step` >= 0, got {line[:80]!r}; "
            "restore the file or remove the line"
        )
    for name, value in record.items():
        if name.startswith(("accuracy/", "loss/")) and not isinstance(value, float):
            raise InputError(f"{place} is damaged: {name} must be a number with a point, got {value!r:.80}")
    return record


def drop_metrics_after(run: Path, step: int) -> None:
    """Forget what was evaluated after a step, because it is about to be trained again."""
    kept = [record for record in read_metrics(run) if record["step"] <= step]
    write_atomically(run / METRICS, "".join(json.dumps(record) + "\n" for record in kept).encode())
