"""`circuit-lab import`: another code's checkpoint, what was understood of it, and a checkpoint of ours."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from circuit_lab.cli.errors import user_errors, user_warnings
from circuit_lab.cli.tables import Titled, empty_table
from circuit_lab.importers.formats import FORMATS, OWN_FORMAT

if TYPE_CHECKING:
    from circuit_lab.training import Checkpoint

_NAMES = "\n\n".join(f"{name}: {description}" for name, description in FORMATS.items())
EPILOG = f"""Formats:\n\n
{_NAMES}\n\n
Examples:\n\n
circuit-lab import full_run_data.pth --task modular:p=113,train_share=0.3,split=python_shuffle,seed=0\n\n
circuit-lab import grokking_demo.pth --task modular:p=113 --out runs/imported/grokking.safetensors\n\n
circuit-lab import gpt2-run/checkpoint-50000 --task data/composition.2000.200.18.0 --passes 2\n\n
circuit-lab import trm/step_10000 --format tiny-recursive --config trm/config.json\n\n
circuit-lab import old.safetensors --out new.safetensors
"""


def import_command(
    path: Annotated[str, typer.Argument(help="A file or folder that another code wrote, or a checkpoint of ours.")],
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="Its format, instead of recognising it by content; see below."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="TASK", help="What it was trained on: modular:p=113,..., a dataset folder, a recipe."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="JSON with the net's settings, where it has none.")
    ] = None,
    passes: Annotated[
        int, typer.Option("--passes", help="How often the layers are applied in a row: 2 for recurrent GPT-2 variants.")
    ] = 1,
    weights: Annotated[
        str, typer.Option("--weights", metavar="raw|ema|auto", help="Which copy, where a file has both.")
    ] = "auto",
    step: Annotated[int | None, typer.Option("--step", help="Which of several checkpoints in the file.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Keep it as a checkpoint of ours (.safetensors).")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the net runs: auto, cpu, cuda, mps.")] = "cpu",
) -> None:
    """Bring in another code's checkpoint: recognised by content, checked, and refused where it is not understood.

    Shows what was inferred and what was ignored, and with a task the accuracy on every split. Nothing in it is run.
    """
    with user_errors():
        from circuit_lab.importers.loading import load
        from circuit_lab.training import save_checkpoint

        with user_warnings():
            checkpoint = load(
                path,
                format=format,
                task=task,
                config=config,
                n_passes=passes,
                weights=weights,
                step=step,
                device=device,
            )
        if out is not None:
            save_checkpoint(
                out,
                net=checkpoint.net,
                task=checkpoint.given_task,
                step=checkpoint.step,
                metrics=checkpoint.metrics,
                recipe=checkpoint.recipe,
                origin=checkpoint.origin,
            )
        print_checkpoint(checkpoint)
        _say_what_next(checkpoint, out)


def print_checkpoint(checkpoint: "Checkpoint") -> None:
    """What a checkpoint is, what was inferred and ignored, and how it does on each split.

    Args:
        checkpoint: The checkpoint.
    """
    from rich.console import Console
    from rich.table import Table

    console, origin = Console(highlight=False), checkpoint.origin
    console.print(f"[bold]{escape(str(checkpoint.path))}[/bold], step {checkpoint.step}")
    lines = Table.grid(padding=(0, 1))
    lines.add_row("Format:", OWN_FORMAT if origin is None else escape(origin.format))
    lines.add_row("Net:", escape(checkpoint.net.cfg.in_words))
    lines.add_row("Task:", "none given" if checkpoint.given_task is None else escape(str(checkpoint.given_task)))
    for title, notes in () if origin is None else (("Inferred:", origin.inferred), ("Ignored:", origin.ignored)):
        for note in notes:
            lines.add_row(title, escape(note))
    console.print(lines)
    if checkpoint.metrics and checkpoint.given_task is not None:
        console.print()
        _accuracy_table(checkpoint).print(console)


def _accuracy_table(checkpoint: "Checkpoint") -> Titled:
    task = checkpoint.task
    table = empty_table(text=("split",), numbers=("n", "accuracy", "chance", "in training"))
    for name, queries in task.splits.items():
        if name in checkpoint.metrics:
            n_seen = f"{int(queries.in_training.sum())}" if task.certificate.is_known else "?"
            accuracy, chance = f"{checkpoint.metrics[name]:.3f}", f"{task.chance[name]:.3f}"
            table.add_row(escape(name), str(len(queries)), accuracy, chance, n_seen)
    return Titled("How it answers", table, "chance: the best answer that ignores the question")


def _say_what_next(checkpoint: "Checkpoint", out: Path | None) -> None:
    if out is None:
        typer.echo("Nothing was written; --out FILE.safetensors keeps it as a checkpoint of ours.")
        return
    typer.echo(f"Checkpoint: {out}")
    if checkpoint.given_task is not None:
        typer.echo(f"Next: circuit-lab diagnose {out}")
