"""`circuit-lab sweep`: a grid of runs from one file, and one table of their results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuit_lab.cli.errors import user_errors

if TYPE_CHECKING:
    import pandas as pd

    from circuit_lab.sweeps import Sweep, SweepRun

EPILOG = """Examples:\n\n
circuit-lab sweep sweep.toml --plan\n\n
circuit-lab sweep sweep.toml --out runs/decay --jobs 2\n\n
circuit-lab sweep sweep.toml --out /shared/decay --backend ray --address auto\n\n
A sweep file names a recipe, seeds, and axes of settings; see docs/sweeps.md.
"""
_MAX_ROWS = 60


def sweep_command(
    sweep: Annotated[Path, typer.Argument(help="A sweep file (TOML).")],
    out: Annotated[Path | None, typer.Option(help="Folder of the runs [default: runs/<name of the file>].")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="List the runs; train none.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for one on each core.")] = 0,
    stack: Annotated[
        int, typer.Option(min=0, help="Runs of one architecture trained at once; 0 for 1 on a CPU, 32 on a GPU.")
    ] = 0,
    backend: Annotated[str, typer.Option(help="loky (processes of this machine), ray or dask.")] = "loky",
    address: Annotated[
        str | None, typer.Option(help="Address of a running cluster; without it, one is started here.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a grid of runs; called again, go on with it.

    Every run is a run folder of its own, safe on disk when it is finished; results.parquet holds all evaluations.
    Ctrl-C saves first. Exits 1 if a run could not be trained; 2 on bad input.
    """
    with user_errors():
        import os

        from circuit_lab.sweeps import load_sweep, run_sweep
        from circuit_lab.training import TrainingInterrupted

        if plan:
            _print_plan(load_sweep(sweep))
            return
        folder = out if out is not None else Path("runs") / sweep.stem
        try:
            found = run_sweep(
                sweep,
                folder,
                n_jobs=jobs or os.cpu_count() or 1,
                stack_size=stack or None,
                backend=backend,
                address=address,
                device=device,
                progress=not quiet,
            )
        except TrainingInterrupted as stop:
            typer.echo(f"circuit-lab: {stop}", err=True)
            raise typer.Exit(128 + stop.signal_number) from stop
    _print(found)
    if found.problems:
        raise typer.Exit(1)


def _print_plan(runs: "tuple[SweepRun, ...]") -> None:
    """Every run on a line, and the steps of all."""
    for run in runs:
        typer.echo(run.name)
    n_steps = sum(run.recipe.training.n_steps for run in runs)
    typer.echo(f"{len(runs)} runs, {n_steps:,} steps")


def _print(found: "Sweep") -> None:
    """The last accuracies of each point, over seeds; what went wrong; where all of it is."""
    last = _last_accuracies(found.results)
    if not last.empty:
        typer.echo("accuracy at the last step: mean over seeds (lowest to highest)\n")
        typer.echo(last.head(_MAX_ROWS).to_string(index=False))
    if len(last) > _MAX_ROWS:
        typer.echo(f"... and {len(last) - _MAX_ROWS} more")
    for name, problem in found.problems.items():
        typer.echo(typer.style("! ", fg="red") + f"{name}: {problem}")
    n_finished = len(found.runs) - len(found.problems)
    typer.echo(f"{n_finished} of {len(found.runs)} runs finished. Written: {found.path}")


def _last_accuracies(results: "pd.DataFrame") -> "pd.DataFrame":
    """A row per point of the axes, a column per split."""
    if results.empty:
        return results
    names = list(results.columns)
    axes = names[names.index("run") + 1 : names.index("seed")]
    is_last = results["finished"] & (results["step"] == results.groupby("run")["step"].transform("max"))
    by = axes or ["all"]
    last = results[is_last].assign(all="all").astype(dict.fromkeys(by, str))
    spread = last.groupby([*by, "split"], sort=False)["accuracy"].agg(["mean", "min", "max"])
    words = spread.apply(lambda row: f"{row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f})", axis=1)
    wide = words.unstack("split", sort=False).reset_index()
    return wide if axes else wide.drop(columns="all")
