"""`circuit-lab report`: the evidence on checkpoints or runs as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from circuit_lab.cli.diagnosing import MaxQueriesOption, TaskOption, diagnose_all
from circuit_lab.cli.errors import user_errors

EPILOG = """Examples:\n\n
circuit-lab report models/two-hop-true-circuit\n\n
circuit-lab report models/* -o demo/report.html\n\n
circuit-lab report modular-grokked modular-ungrokked -o docs/pair.html --link-scripts\n\n
circuit-lab report runs/my-run --all -o run.html
"""


def report_command(
    paths: Annotated[
        list[Path], typer.Argument(help="Checkpoint files, run folders, or reference models by folder or name.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page.")] = Path("report.html"),
    whole_runs: Annotated[
        bool, typer.Option("--all", help="Every checkpoint of each run folder: what came when, and in which order.")
    ] = False,
    link_scripts: Annotated[
        bool,
        typer.Option("--link-scripts", help="Script libraries (6 MB) beside the page, not in it: for repositories."),
    ] = False,
    task: TaskOption = None,
    seed: Annotated[int, typer.Option(help="Seed of partners, random subspaces, samples and resamples.")] = 0,
    max_queries: MaxQueriesOption = 10_000,
    device: Annotated[str, typer.Option(help="Where the nets run: cpu, cuda, mps.")] = "cpu",
) -> None:
    """Write one interactive HTML page that opens anywhere, with the network off.

    Several checkpoints also stand side by side, with differences. Exits 0 whatever the verdicts; 2 on bad input, and
    then nothing is written.
    """
    with user_errors():
        from circuit_lab.report.page import check_target, write_report

        check_target(out)
        diagnosed = diagnose_all(
            paths, whole_runs=whole_runs, task=task, seed=seed, max_queries=max_queries, device=device
        )
        write_report(diagnosed, out, link_scripts=link_scripts)
        typer.echo(f"Report: {out}")
