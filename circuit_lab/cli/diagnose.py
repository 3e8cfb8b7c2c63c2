"""`circuit-lab diagnose`: verdicts on checkpoints, as a table or as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuit_lab.cli.diagnosing import MaxQueriesOption, TaskOption, diagnose_all
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
circuit-lab diagnose runs/my-run --all\n\n
circuit-lab diagnose runs/large --max-queries 500\n\n
circuit-lab diagnose full_run_data.pth --task modular:p=113,train_share=0.3,split=python_shuffle,seed=0
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
    task: TaskOption = None,
    seed: Annotated[int, typer.Option(help="Seed of partners, random subspaces, samples and resamples.")] = 0,
    max_queries: MaxQueriesOption = 10_000,
    device: Annotated[str, typer.Option(help="Where the nets run: cpu, cuda, mps.")] = "cpu",
) -> None:
    """Tell which mechanism each checkpoint's answers go through, by causal evidence.

    Exits 0 whatever the verdicts; 2 on bad input.
    """
    with user_errors():
        if report is not None:
            from circuit_lab.report.page import check_target

            check_target(report)
        diagnosed = diagnose_all(
            paths, whole_runs=whole_runs, task=task, seed=seed, max_queries=max_queries, device=device
        )
        if json:
            typer.echo(_as_json(diagnosed))
        if report is not None:
            from circuit_lab.report.page import write_report

            write_report(diagnosed, report)
        if not json:
            _print_tables(diagnosed)
            if report is not None:
                typer.echo(f"Report: {report}")


def _print_tables(diagnosed: "Sequence[Diagnosis | RunDiagnosis]") -> None:
    """Tables of checkpoints, or of each run."""
    from circuit_lab.verdict import Diagnosis, RunDiagnosis

    print_tables([one for one in diagnosed if isinstance(one, Diagnosis)])
    for run in diagnosed:
        if isinstance(run, RunDiagnosis):
            print_run_tables(run)


def _as_json(diagnoses: "Sequence[Diagnosis | RunDiagnosis]") -> str:
    if len(diagnoses) == 1:
        return diagnoses[0].to_json()
    return "[" + ",\n".join(d.to_json() for d in diagnoses) + "]"
