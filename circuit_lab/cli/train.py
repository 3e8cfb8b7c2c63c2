"""`circuit-lab train`: recipe -> run folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuit_lab.cli.errors import user_errors

if TYPE_CHECKING:
    from circuit_lab.training import TrainingCost

EPILOG = """Examples:\n\n
circuit-lab train models/two-hop-true-circuit/recipe.toml\n\n
circuit-lab train recipe.toml --out runs/short --set training.n_steps=2000 --set task.regime=natural\n\n
circuit-lab train models/modular-grokked/recipe.toml --from modular-grokked --set task.n_train=100 --out runs/ungrok\n\n
circuit-lab train recipe.toml --estimate
"""


def train_command(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe.")],
    out: Annotated[Path | None, typer.Option(help="Run folder [default: runs/<name of the recipe>].")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the recipe.")
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option("--from", metavar="CKPT", help="Start from these weights: a checkpoint, run or reference model."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Time a few steps and say what the run would take; write nothing.")
    ] = False,
) -> None:
    """Train a net by a recipe; called again with the same folder, continue it.

    Ctrl-C saves first. A continued run ends with the same bytes as an uninterrupted one.
    """
    from circuit_lab.training import TrainingInterrupted, estimate_cost, load_recipe, resolve_device, train
    from circuit_lab.training.data_parallel import join_processes, main_process_speaks, own_device, refuse_launcher

    with user_errors(), main_process_speaks():
        run = out if out is not None else Path("runs") / _name_of(recipe)
        try:
            if estimate:
                refuse_launcher("--estimate")
            from_parent = [] if parent is None else [f"parent.checkpoint={json.dumps(parent, ensure_ascii=False)}"]
            with join_processes(own_device(resolve_device(device))).as_one():
                resolved = load_recipe(recipe, [*(settings or []), *from_parent])
            if estimate:
                _print_cost(estimate_cost(resolved, device=device))
                return
            result = train(resolved, run, device=device, progress=not quiet)
        except TrainingInterrupted as stop:
            typer.echo(f"circuit-lab: {stop}", err=True)
            raise typer.Exit(128 + stop.signal_number) from stop
        n_steps = resolved.training.n_steps
        if result.resumed_at == n_steps:
            typer.echo(f"Already finished at step {n_steps}; --set training.n_steps=... prolongs it.")
        elif result.resumed_at > 0:
            typer.echo(f"Continued from step {result.resumed_at}.")
        for split, accuracy in result.accuracy.items():
            typer.echo(f"{split:<16} accuracy {accuracy:.3f}")
        typer.echo(f"Last checkpoint: {result.checkpoint}")
        typer.echo(f"Next: circuit-lab diagnose {run}")


def _name_of(recipe: Path) -> str:
    """The recipe's own name, or its folder's when it is simply called recipe.toml."""
    return recipe.resolve().parent.name if recipe.stem == "recipe" else recipe.stem


def _print_cost(cost: "TrainingCost") -> None:
    """What a run would take, a line for each part."""
    from circuit_lab.training import duration

    typer.echo(f"Device: {cost.device}" + (f", {cost.n_threads} thread(s)" if cost.device == "cpu" else ""))
    typer.echo(f"Parameters: {cost.n_parameters:,}")
    typer.echo(f"Training items: {cost.n_items:,}, of which {cost.batch_size:,} per step")
    how = "timed" if cost.batch_size in cost.timed else f"reckoned from batches of {' and '.join(map(str, cost.timed))}"
    typer.echo(f"One step: {duration(cost.step_seconds)} ({how}), {cost.flops_per_step:.2g} FLOPs")
    typer.echo(f"One evaluation: {duration(cost.evaluation_seconds)}")
    typer.echo(
        f"In all: {duration(cost.total_seconds)} for {cost.n_steps:,} steps and {cost.n_evaluations:,} evaluations, "
        "saving not counted"
    )
