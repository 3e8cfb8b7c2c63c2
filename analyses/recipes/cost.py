"""What the recipes of this folder would cost on this machine: writes cost.md and cost.json beside this file.

    python analyses/recipes/cost.py

Each recipe's first steps are timed, one recipe after the other, in one run, for a few minutes in all; nothing is
trained to the end. On a CPU a recipe that is made for a GPU is timed in float32, without torch.compile and without CUDA
graphs. Run it while nothing else does.
"""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from circuit_lab.training import TrainingCost, duration, estimate_cost, load_recipe, resolve_device

HERE = Path(__file__).parent
PLAIN = ['training.precision="float32"', "training.compile=false", "training.cuda_graphs=false"]
"""What a CPU can do of any recipe."""
SCALES = ("small", "medium", "paper")


def main(
    seconds: Annotated[float, typer.Option(help="About how long to time each recipe.")] = 12.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Time the first steps of every recipe, and write the table."""
    torch_device = resolve_device(device)
    rows = []
    for path in sorted(HERE.glob("*.toml"), key=lambda path: (SCALES.index(path.stem.split("-")[1]), path.stem)):
        as_written = load_recipe(path)
        recipe = load_recipe(path, PLAIN) if torch_device.type == "cpu" else as_written
        cost = estimate_cost(recipe, device=device, seconds=seconds)
        rows.append(row_of(path.stem, cost, is_changed=recipe != as_written))
        typer.echo(f"{path.stem}: {duration(cost.step_seconds)} a step, {duration(cost.total_seconds)} in all")
    machine = machine_in_words(torch_device)
    (HERE / "cost.json").write_text(json.dumps({"machine": machine, "recipes": rows}, indent=2) + "\n")
    (HERE / "cost.md").write_text(page(machine, rows))


def row_of(name: str, cost: TrainingCost, *, is_changed: bool) -> dict[str, Any]:
    """One recipe's costs; `is_changed` where it was timed in other arithmetic than it asks for."""
    return {"recipe": name, "in_plain_float32": is_changed, **asdict(cost), "total_seconds": cost.total_seconds}


def machine_in_words(device: torch.device) -> str:
    """Kind and number of processors, and the versions that matter."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores, {cpu_model()}"
    return f"{kind}; torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"


def cpu_model() -> str:
    """Name of the processor, where the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def page(machine: str, rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "# What the recipes cost",
        "",
        f"Written by `python analyses/recipes/cost.py`, in one run, on: {machine}.",
        "",
        "The first steps were timed, each figure is a median; nothing was trained to the end, and saving files is not",
        "counted. *Reckoned* steps were too long to be timed at the recipe's batch: they are drawn from two smaller",
        "ones. *Plain* recipes ask for a GPU's arithmetic and were timed in float32, neither compiled nor graphed.",
        "",
        "| recipe | parameters | items | batch | one step | FLOPs a step | one evaluation | steps | in all | |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(table_line(row) for row in rows),
        "",
    ]
    return "\n".join(lines)


def table_line(row: dict[str, Any]) -> str:
    """One recipe's line."""
    notes = ["plain"] if row["in_plain_float32"] else []
    if row["batch_size"] not in row["timed"]:
        notes.append("reckoned from " + " and ".join(str(size) for size in row["timed"]))
    cells = [
        row["recipe"],
        f"{row['n_parameters']:,}",
        f"{row['n_items']:,}",
        f"{row['batch_size']:,}",
        duration(row["step_seconds"]),
        f"{row['flops_per_step']:.2g}",
        duration(row["evaluation_seconds"]),
        f"{row['n_steps']:,}",
        duration(row["total_seconds"]),
        "; ".join(notes),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
