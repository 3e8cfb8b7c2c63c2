"""`circuit-lab diagnose`: verdicts on checkpoints, as a table or as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuit_lab.cli.errors import user_errors
from circuit_lab.cli.run_tables import print_run_tables
from circuit_lab.cli.tables import print_tables

if TYPE_CHECKING:
    from circuit_lab.verdict import Diagnosis
    from circuit_lab.verdict.runs import RunDiagnosis

EPILOG = """Examples:\n\n
circuit-lab diagnose models/two-hop-true-circuit\n\n
circuit-lab diagnose models/* --report report.html\n\n
circuit-lab diagnose modular-grokked modular-ungrokked\n\n
circuit-lab diagnose runs/my-run/checkpoints/step-00012000.safetensors --json\n\n
circuit-lab diagnose runs/my-run --all
"""


def diagnose_command(
    paths: Annotated[
        list[Path], typer.Argument(help="Checkpoint files, run folders, or reference models by folder or name.")
    ],
    whole_runs: Annotated[
        bool, typer.Option("--all", help="Every checkpoint of each run folder: what came when, and in which order.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object (several: a JSON list).")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write one HTML page over all of them.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of partners, random subspaces, samples and resamples.")] = 0,
    device: Annotated[str, typer.Option(help="Where the nets run: cpu, cuda, mps.")] = "cpu",
) -> None:
    """Tell which mechanism each checkpoint's answers go through, by causal evidence.

    Exits 0 whatever the verdicts; 2 on bad input.
    """
    with user_errors():
        if whole_runs:
            _diagnose_runs(paths, json=json, report=report, seed=seed, device=device)
            return
        diagnoses = _diagnose_all(paths, seed=seed, device=device)
        if json:
            typer.echo(_as_json(diagnoses))
        if report is not None:
            from circuit_lab.report import write_report

            write_report(diagnoses, report)
        if not json:
            print_tables(diagnoses)
            if report is not None:
                typer.echo(f"Report: {report}")


def _diagnose_runs(paths: list[Path], *, json: bool, report: Path | None, seed: int, device: str) -> None:
    """Diagnose whole runs, each with a bar over its checkpoints; nothing starts unless every path is a run."""
    if report is not None:
        raise ValueError("--report is for single checkpoints; with --all, use --json and run_timeline_figure")
    from circuit_lab.training import run_checkpoints
    from circuit_lab.verdict.runs import diagnose_run

    for path in paths:
        run_checkpoints(path)
    runs = [diagnose_run(path, seed=seed, device=device, progress=True) for path in paths]
    if json:
        typer.echo(_as_json(runs))
        return
    for run in runs:
        print_run_tables(run)


def _diagnose_all(paths: list[Path], *, seed: int, device: str) -> "list[Diagnosis]":
    """Diagnose each path, with a bar and the time left on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("loading torch", total=len(paths))
        from circuit_lab.verdict import diagnose

        diagnoses = []
        for path in paths:
            progress.update(bar, description=f"diagnosing {escape(str(path))}")
            diagnoses.append(diagnose(path, seed=seed, device=device))
            progress.advance(bar)
    return diagnoses


def _as_json(diagnoses: "Sequence[Diagnosis | RunDiagnosis]") -> str:
    if len(diagnoses) == 1:
        return diagnoses[0].to_json()
    return "[" + ",\n".join(d.to_json() for d in diagnoses) + "]"
