"""What `diagnose` and `report` share: every path is checked, then each is diagnosed, with a bar on the error stream."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

if TYPE_CHECKING:
    from circuit_lab.verdict import Diagnosis
    from circuit_lab.verdict.runs import RunDiagnosis


def diagnose_paths(paths: Sequence[Path], *, seed: int, device: str) -> "list[Diagnosis]":
    """Diagnose each path, with a bar and the time left on the terminal.

    Args:
        paths: Checkpoint files, run folders, or reference models by folder or name.
        seed: Seed of every diagnosis.
        device: Where the nets run.

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
        from circuit_lab.training.checkpoint import read_parts
        from circuit_lab.training.reference import resolve_checkpoint
        from circuit_lab.verdict import diagnose

        for path in paths:
            read_parts(resolve_checkpoint(path))
        diagnoses = []
        for path in paths:
            progress.update(bar, description=f"diagnosing {escape(str(path))}")
            diagnoses.append(diagnose(path, seed=seed, device=device))
            progress.advance(bar)
    return diagnoses


def diagnose_run_folders(paths: Sequence[Path], *, seed: int, device: str) -> "list[RunDiagnosis]":
    """Diagnose whole runs, each with a bar over its checkpoints; nothing starts unless every path is a run.

    Args:
        paths: Run folders.
        seed: Seed of every diagnosis.
        device: Where the nets run.

    Returns:
        The diagnoses, in order.

    What is no run folder, or has no checkpoint, is a ValueError.
    """
    from circuit_lab.training import run_checkpoints
    from circuit_lab.verdict.runs import diagnose_run

    for path in paths:
        run_checkpoints(path)
    return [diagnose_run(path, seed=seed, device=device, progress=True) for path in paths]
