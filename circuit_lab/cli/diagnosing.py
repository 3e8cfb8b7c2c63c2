"""What `diagnose` and `report` share: every path is checked, then each is diagnosed, with a bar on the error stream."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuit_lab.cli.errors import user_warnings
from circuit_lab.errors import InputError

if TYPE_CHECKING:
    from circuit_lab.training import Checkpoint
    from circuit_lab.verdict import Diagnosis
    from circuit_lab.verdict.runs import RunDiagnosis

TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="What another code's checkpoint was trained on: modular:p=113,..., a dataset folder, or a recipe.",
    ),
]

MaxQueriesOption = Annotated[
    int,
    typer.Option("--max-queries", min=1, help="Larger splits are sampled down to this many queries, with a warning."),
]


def diagnose_all(
    paths: Sequence[Path], *, whole_runs: bool, task: str | None, seed: int, max_queries: int, device: str
) -> "Sequence[Diagnosis | RunDiagnosis]":
    """Diagnose each path as a checkpoint, or as a whole run.

    Args:
        paths: What to diagnose.
        whole_runs: Whether each path is a run folder, all of whose checkpoints are diagnosed.
        task: The task of another code's checkpoints, in words; runs have their own.
        seed: Seed of every diagnosis.
        max_queries: Queries read of each split at most.
        device: Where the nets run.

    Returns:
        The diagnoses, in order.

    Raises:
        InputError: If a task is given for runs; and what the paths themselves raise.
    """
    if not whole_runs:
        return diagnose_paths(paths, seed=seed, max_queries=max_queries, device=device, task=task)
    if task is not None:
        raise InputError(
            f"--task {task!r} does not go with --all: a run folder has its own task; leave one of them out"
        )
    return diagnose_run_folders(paths, seed=seed, max_queries=max_queries, device=device)


def diagnose_paths(
    paths: Sequence[Path], *, seed: int, max_queries: int, device: str, task: str | None = None
) -> "list[Diagnosis]":
    """Diagnose each path, with a bar and the time left on the terminal.

    Args:
        paths: Checkpoint files, run folders, reference models by folder or name; with a task also another code's files.
        seed: Seed of every diagnosis.
        max_queries: Queries read of each split at most.
        device: Where the nets run.
        task: The task of another code's checkpoints, in words.

    Returns:
        The diagnoses, in order.

    A path without a checkpoint, or with one that cannot be read, is a ValueError before the first is diagnosed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # Where there is no terminal, rich would leave an empty line behind.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("loading torch", total=len(paths))
        from circuit_lab.verdict import diagnose

        found = [_checked(path, task, device) for path in paths]
        diagnoses = []
        for path, checkpoint in zip(paths, found, strict=True):
            progress.update(bar, description=f"diagnosing {escape(str(path))}")
            diagnoses.append(diagnose(checkpoint, seed=seed, max_queries_per_split=max_queries, device=device))
            progress.advance(bar)
    return diagnoses


def _checked(path: Path, task: str | None, device: str) -> "Path | Checkpoint":
    """A path whose file is a checkpoint of ours; with a task, what was loaded from it with that task."""
    if task is not None:
        from circuit_lab.importers.loading import load

        with user_warnings():
            return load(path, task=task, device=device)
    from circuit_lab.training.checkpoint import read_parts
    from circuit_lab.training.reference import resolve_checkpoint

    read_parts(resolve_checkpoint(path))
    return path


def diagnose_run_folders(paths: Sequence[Path], *, seed: int, max_queries: int, device: str) -> "list[RunDiagnosis]":
    """Diagnose whole runs, each with a bar over its checkpoints; nothing starts unless every path is a run.

    Args:
        paths: Run folders.
        seed: Seed of every diagnosis.
        max_queries: Queries read of each split at most.
        device: Where the nets run.

    Returns:
        The diagnoses, in order.

    What is no run folder, or has no checkpoint, is a ValueError.
    """
    from circuit_lab.training import run_checkpoints
    from circuit_lab.verdict.runs import diagnose_run

    for path in paths:
        run_checkpoints(path)
    options = {"seed": seed, "max_queries_per_split": max_queries, "device": device}
    return [diagnose_run(path, **options, progress=True) for path in paths]
