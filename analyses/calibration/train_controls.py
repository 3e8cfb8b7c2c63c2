"""Train the grid of small nets on which the diagnosis is calibrated; called again, it continues where it stopped.

    python analyses/calibration/train_controls.py --list
    python analyses/calibration/train_controls.py --out runs/controls
    python analyses/calibration/train_controls.py --only "two_hop/random_labels/*" --only "*/seed=0"

Every run is a run folder of its own, `<out>/<task>/<data>/<architecture>/seed=<n>`, and keeps four checkpoints: a
quarter, half, three quarters and all of the way. The first three parts of the path name its family, of which
`circuit_lab.verdict.calibration.trained_controls` makes halves. One seed fixes task, initial weights and batches, and
with the task's size also the width. Runs are ordered by seed, so that an unfinished grid is a balanced one.

| data | two-hop | modular |
|---|---|---|
| random_labels | answers of two-hop queries shuffled | random answers |
| random_commutative | | random, equal for (a, b) and (b, a) |
| leaked_random_labels | shuffled, and all of `test_ood` in training | |
| leaked | all of `test_ood` in training | |
| few_items | two inferred queries per ID fact | a quarter of the pairs |
| no_decay | all inferred queries, weight decay 0 | two fifths of the pairs, weight decay 0 |
| augmented | both_full or second_hop_full, too short to generalise | |
| generalising | both_full on a larger world, long | three fifths of the pairs, a higher rate, long |

The whole grid takes about 20 minutes of one core.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from circuit_lab.training import TrainingInterrupted, TrainingResult, parse_recipe, train

Table = Mapping[str, Any]
N_CHECKPOINTS = 4
OUT = Path("runs/controls")


@dataclass(frozen=True)
class Condition:
    """What nets of one row of the table above have in common, as changes to the tables of a recipe.

    Attributes:
        n_seeds: Runs per architecture.
        n_steps: Optimiser steps of each.
        task: Changes to the task.
        tasks: Further changes, that of the run with seed i being number i modulo their number.
        net: Changes to the net.
        optimizer: Changes to the optimiser.
        architectures: The architectures trained; all when empty.
    """

    n_seeds: int
    n_steps: int
    task: Table = field(default_factory=dict)
    tasks: tuple[Table, ...] = ({},)
    net: Table = field(default_factory=dict)
    optimizer: Table = field(default_factory=dict)
    architectures: tuple[str, ...] = ()


FEW = {"phi": 2.0}
SHUFFLED = {"shuffled_answers": True}
LEAKED = {"leaked_share": 1.0}
LARGER = {"n_entities": 30, "n_relations": 10, "out_degree": 10, "regime": "both_full"}

TWO_HOP_TASK = {"kind": "two_hop", "n_relations": 8, "out_degree": 8, "ood_share": 0.34, "test_id_share": 0.15}
TWO_HOP_SIZES = ({"n_entities": 20}, {"n_entities": 22}, {"n_entities": 25})
TWO_HOP_NETS: Mapping[str, Table] = {
    "shared": {"layer_map": [0, 0, 0]},
    "cycle": {"layer_map": [0, 1, 0, 1]},
    "standard": {"layer_map": [0, 1, 2]},
    "bidirectional": {"layer_map": [0, 0, 0], "attention_dir": "bidirectional"},
}
TWO_HOP_OPTIMIZER = {"learning_rate": 2e-3, "weight_decay": 0.5, "warmup_steps": 50}
TWO_HOP_CONDITIONS: Mapping[str, Condition] = {
    "random_labels": Condition(8, 800, task=SHUFFLED | FEW),
    "leaked_random_labels": Condition(4, 1000, task=SHUFFLED | FEW | LEAKED),
    "leaked": Condition(4, 800, task=LEAKED | FEW),
    "few_items": Condition(4, 800, task=FEW),
    "no_decay": Condition(3, 1000, optimizer={"weight_decay": 0.0}),
    "augmented": Condition(2, 2000, tasks=({"regime": "both_full"}, {"regime": "second_hop_full"})),
    "generalising": Condition(
        2, 5000, task=LARGER, net={"d_model": 64, "d_mlp": 256}, architectures=("shared", "standard")
    ),
}

MODULAR_TASK = {"kind": "modular"}
MODULAR_SIZES = ({"p": 23}, {"p": 29}, {"p": 31})
PLAIN = {"layer_map": [0], "act_fn": "relu", "normalization_type": "none", "attn_bias": False}
MODULAR_NETS: Mapping[str, Table] = {
    "one_layer": PLAIN,
    "normed": {"layer_map": [0]},
    "two_layers": PLAIN | {"layer_map": [0, 1]},
    "shared": PLAIN | {"layer_map": [0, 0]},
}
MODULAR_OPTIMIZER = {"weight_decay": 1.0, "betas": [0.9, 0.98], "warmup_steps": 0, "max_gradient_norm": 0.0}
MODULAR_CONDITIONS: Mapping[str, Condition] = {
    "random_labels": Condition(6, 600, task={"labels": "random", "train_share": 0.3}),
    "random_commutative": Condition(3, 600, task={"labels": "random_commutative", "train_share": 0.3}),
    "few_items": Condition(5, 600, task={"train_share": 0.25}),
    "no_decay": Condition(4, 600, task={"train_share": 0.4}, optimizer={"weight_decay": 0.0}),
    "generalising": Condition(2, 2000, task={"train_share": 0.6}, optimizer={"learning_rate": 3e-3}),
}


@dataclass(frozen=True)
class Run:
    """One run of the grid: its folder below `--out`, and the tables of its recipe."""

    name: str
    seed: int
    tables: Table

    @property
    def work(self) -> float:
        """What the run costs, to a factor that no run changes: steps times what a step costs."""
        training, net = self.tables["training"], self.tables["net"]
        return training["n_steps"] * (len(net["layer_map"]) + 1) * net["d_model"]


def grid() -> list[Run]:
    """Every run, those of the lowest seed first."""
    runs = [
        *_runs_of("two_hop", TWO_HOP_CONDITIONS, TWO_HOP_NETS, _two_hop_tables),
        *_runs_of("modular", MODULAR_CONDITIONS, MODULAR_NETS, _modular_tables),
    ]
    return sorted(runs, key=lambda run: run.seed)


def _runs_of(kind: str, conditions: Mapping[str, Condition], nets: Mapping[str, Table], tables: Any) -> Iterator[Run]:
    for data, condition in conditions.items():
        for architecture in condition.architectures or nets:
            for seed in range(condition.n_seeds):
                name = f"{kind}/{data}/{architecture}/seed={seed}"
                yield Run(name, seed, {"about": {"title": name}} | tables(condition, nets[architecture], seed))


def _two_hop_tables(condition: Condition, net: Table, seed: int) -> dict[str, Table]:
    task = TWO_HOP_TASK | TWO_HOP_SIZES[seed % len(TWO_HOP_SIZES)]
    net = {"init_std": 0.02, "normalization_type": "LN"} | dict(net)
    training = {"batch_size": 128, "loss_dtype": "float32"}
    return _tables(condition, seed, task, net, TWO_HOP_OPTIMIZER, training)


def _modular_tables(condition: Condition, net: Table, seed: int) -> dict[str, Table]:
    task = MODULAR_TASK | MODULAR_SIZES[seed % len(MODULAR_SIZES)]
    training = {"batch_size": "full", "loss_dtype": "float64"}
    return _tables(condition, seed, task, net, MODULAR_OPTIMIZER, training)


def _tables(
    condition: Condition, seed: int, task: Table, net: Table, optimizer: Table, training: Table
) -> dict[str, Table]:
    """The tables of a recipe: the family's, changed as the condition says, with the seed everywhere."""
    changes = condition.tasks[seed % len(condition.tasks)]
    d_model = (32, 48)[seed % 2]
    sizes = {"kind": "shared_transformer", "d_model": d_model, "d_mlp": 4 * d_model, "n_heads": 4, "init_seed": seed}
    spacing = {"spacing": "linear", "every": condition.n_steps // N_CHECKPOINTS}
    return {
        "task": {**task, **condition.task, **changes, "seed": seed},
        "net": {**sizes, **net, **condition.net},
        "optimizer": {**optimizer, **condition.optimizer},
        "training": {"n_steps": condition.n_steps, "seed": seed, **training},
        "evaluation": spacing,
        "checkpoints": spacing,
    }


def train_run(run: Run, out: Path) -> TrainingResult:
    """Train one run, or find it finished."""
    return train(parse_recipe(dict(run.tables), source=run.name), out / run.name, device="cpu", progress=False)


def train_all(runs: list[Run], out: Path, *, n_jobs: int) -> Iterator[tuple[Run, TrainingResult]]:
    """Train the runs in so many processes; each is yielded when it has ended."""
    if n_jobs == 1:
        yield from ((run, train_run(run, out)) for run in runs)
        return
    # Fresh processes: a forked one inherits torch's threads in an unknown state.
    with ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn")) as pool:
        ending = {pool.submit(train_run, run, out): run for run in runs}
        try:
            yield from ((ending[future], future.result()) for future in as_completed(ending))
        finally:
            pool.shutdown(cancel_futures=True)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run folders.")] = OUT,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help='Runs to train, such as "modular/*/seed=0"; repeatable.')
    ] = None,
    n_jobs: Annotated[int, typer.Option(min=1, help="Processes; each uses one thread.")] = 2,
    list_runs: Annotated[bool, typer.Option("--list", help="Name the runs and train nothing.")] = False,
) -> None:
    """Train the grid of small nets on which the diagnosis is calibrated."""
    runs = grid() if only is None else _matching(grid(), only)
    if list_runs:
        for run in runs:
            typer.echo(run.name)
        return
    try:
        _train_and_tell(runs, out, n_jobs)
    except TrainingInterrupted as stop:
        typer.echo(f"{stop}", err=True)
        raise typer.Exit(128 + stop.signal_number) from stop


def _matching(runs: list[Run], patterns: list[str]) -> list[Run]:
    """The runs that some pattern matches; each must match one at least."""
    matching = {pattern: {run.name for run in runs if fnmatchcase(run.name, pattern)} for pattern in patterns}
    for pattern, names in matching.items():
        if not names:
            raise typer.BadParameter(f"no run matches {pattern!r}; --list names them all", param_hint="--only")
    return [run for run in runs if any(run.name in names for names in matching.values())]


def _train_and_tell(runs: list[Run], out: Path, n_jobs: int) -> None:
    """Train, with a line for each run as it ends."""
    start, work_done, work_left = monotonic(), 0.0, sum(run.work for run in runs)
    for i, (run, result) in enumerate(train_all(runs, out, n_jobs=n_jobs), start=1):
        work_left -= run.work
        was_finished = result.resumed_at == run.tables["training"]["n_steps"]
        work_done += 0 if was_finished else run.work
        left = (monotonic() - start) * work_left / work_done / 60 if work_done else float("nan")
        scores = ", ".join(f"{split} {accuracy:.2f}" for split, accuracy in result.accuracy.items())
        what = "was finished" if was_finished else f"{left:.1f} min left"
        typer.echo(f"[{i}/{len(runs)}] {what}  {run.name}  {scores}")


if __name__ == "__main__":
    typer.run(main)
