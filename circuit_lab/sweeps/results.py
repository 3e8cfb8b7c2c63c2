"""The results of a sweep: one tidy table of every evaluation of every run."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from circuit_lab.errors import InputError
from circuit_lab.measures.intervals import proportion_interval
from circuit_lab.sweeps.plan import RESULT_COLUMNS, SweepRun
from circuit_lab.tasks import Task, build_task
from circuit_lab.training import Recipe, read_metrics, write_atomically
from circuit_lab.training.run_identity import check_holds

RESULTS = "results.parquet"
_ACCURACY, _LOSS = "accuracy/", "loss/"


def results_frame(runs: Sequence[SweepRun], folder: Path) -> pd.DataFrame:
    """What the runs of a sweep have scored so far.

    Args:
        runs: From `load_sweep`.
        folder: Where their folders lie.

    Returns:
        One row per run, evaluation and split: `run` (its folder), a column for each axis, `seed`, `step`, `finished`
        (whether the run is), `split`, `accuracy` in [0, 1] with its 95 % Wilson interval `low` to `high`, `n` queries
        and `chance`; `loss` in nats, `weight_norm`, and `softmax_collapse`, the share of training items whose answer
        has probability 1 after rounding. Splits without queries and runs without an evaluation have no row.
    """
    rows = []
    sizes: dict[str, dict[str, tuple[int, float]]] = {}
    for run in runs:
        records = _records(folder / run.name, run.recipe)
        if not records:
            continue
        key = run.recipe.task.model_dump_json()
        if key not in sizes:
            sizes[key] = _sizes(build_task(run.recipe.task))
        common = {"run": run.name, **run.point, "seed": run.seed}
        finished = records[-1]["step"] == run.recipe.training.n_steps
        for record in records:
            for split, (n, chance) in sizes[key].items():
                accuracy = record[_ACCURACY + split]
                interval = proportion_interval(round(accuracy * n), n)
                scores = {"accuracy": accuracy, "low": interval.low, "high": interval.high, "n": n, "chance": chance}
                scores |= {"loss": record[_LOSS + split]}
                whole_net = {name: record[name] for name in ("weight_norm", "softmax_collapse")}
                rows.append(
                    common | {"step": record["step"], "finished": finished, "split": split} | scores | whole_net
                )
    columns = [*RESULT_COLUMNS[:1], *(runs[0].point if runs else ()), *RESULT_COLUMNS[1:]]
    return pd.DataFrame(rows, columns=columns)


def _records(folder: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """The evaluations of a run; none if its folder is not there, holds another run, or is damaged."""
    if not folder.is_dir():
        return []
    try:
        check_holds(folder, recipe)
        return read_metrics(folder)
    except (ValueError, OSError):  # `train_fleet` has said what is wrong
        return []


def _sizes(task: Task) -> dict[str, tuple[int, float]]:
    """Queries and chance of every split that a run is scored on."""
    return {name: (len(queries), task.chance[name]) for name, queries in task.splits.items() if len(queries)}


def write_results(table: pd.DataFrame, folder: Path) -> Path:
    """Write the table whole into the sweep's folder, which is made if it is not there, as parquet; returns its path."""
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    path = folder / RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    return path


def read_results(folder: str | Path) -> pd.DataFrame:
    """The table of a sweep's folder; see `results_frame`.

    Args:
        folder: What `run_sweep` wrote into.

    Returns:
        The table.

    Raises:
        InputError: If there is none, or it is no parquet file.
    """
    path = Path(folder) / RESULTS
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"no results of a sweep at {path}: {error}") from error
