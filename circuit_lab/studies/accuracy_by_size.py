"""Test accuracy of nets of modular arithmetic against the number of their training pairs, and where it turns."""

from math import inf, isnan
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuit_lab.measures import Transition, accuracy_transition, predicted_answers, proportion_interval
from circuit_lab.studies.lab import Lab
from circuit_lab.studies.ranges import UNKNOWN, Range
from circuit_lab.studies.study import StudyRun
from circuit_lab.tasks import ModularTask
from circuit_lab.training import load_checkpoint

ACCURACY, BEFORE, TRAIN_ACCURACY = "test accuracy", "test accuracy before", "train accuracy"
HELD_OUT = "test_unmirrored"
"""Held-out pairs whose mirror image is held out, too: (b, a) tells a memorising net the answer to (a, b)."""
HAD_GROKKED = 0.9
"""Accuracy on held-out pairs from which on a net had grokked; another cannot ungrok."""


def accuracy_rows(lab: Lab, run: StudyRun, condition: str, *, weight_decay: float) -> pd.DataFrame:
    """Accuracies of a net at its last step, and that of its parent.

    Args:
        lab: The finished runs.
        run: One of them, on modular arithmetic.
        condition: What it is a case of.
        weight_decay: What it was trained with.

    Returns:
        Rows with the columns of `COLUMNS`, `n_train` and `weight_decay`. A net with a parent is asked what was held out
        from both (pairs of a seed are nested), and the parent's accuracy on it is a row, too. Shares in [0, 1].
    """
    checkpoint = load_checkpoint(lab.last(run))
    task = checkpoint.task
    assert isinstance(task, ModularTask), "these runs are of modular tasks"
    scores = {(TRAIN_ACCURACY, "train"): (checkpoint.metrics["train"], len(task.splits["train"]))}
    if run.parent is None:
        scores[ACCURACY, HELD_OUT] = (checkpoint.metrics[HELD_OUT], len(task.splits[HELD_OUT]))
    else:
        parent = load_checkpoint(lab.last(run.parent))
        asked = parent.task.splits[HELD_OUT]
        right = float((predicted_answers(checkpoint.net, asked) == asked.answer).double().mean())
        scores[ACCURACY, HELD_OUT] = (right, len(asked))
        scores[BEFORE, HELD_OUT] = (parent.metrics[HELD_OUT], len(asked))
    rows = []
    for (quantity, split), (value, n) in scores.items():
        interval = proportion_interval(round(value * n), n)
        rows.append((quantity, split, value, n, interval.low, interval.high))
    table = pd.DataFrame(rows, columns=["quantity", "split", "value", "n", "low", "high"])
    common = {"condition": condition, "step": lab.step(lab.last(run))}
    return table.assign(**common, n_train=len(task.training), weight_decay=weight_decay)


def points(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """One row per net of a condition, a column per quantity; retrained nets only where the parent had grokked."""
    chosen = rows[rows["condition"] == condition]
    wide = chosen.pivot_table("value", ["seed", "n_train"], "quantity").reset_index()
    return pd.DataFrame(wide[wide[BEFORE] >= HAD_GROKKED]) if BEFORE in wide else wide


def transition_of(rows: pd.DataFrame, condition: str) -> Transition | None:
    """The fitted transition of a condition; None where fewer than two sizes are left."""
    table = points(rows, condition)
    sizes = [int(n) for n in table["n_train"]]
    if len(set(sizes)) < 2:
        return None
    return accuracy_transition(sizes, [float(x) for x in table[ACCURACY]], [int(s) for s in table["seed"]])


def midpoint(rows: pd.DataFrame, condition: str) -> Range:
    """Where accuracy turns: at a size, or beyond the sizes tried; unknown without nets."""
    found = transition_of(rows, condition)
    if found is None:
        return UNKNOWN
    if found.midpoint is not None:
        return found.midpoint, found.midpoint
    return (0.0, float(found.n_train.min())) if found.beyond == "fewer" else (float(found.n_train.max()), inf)


def add_points_and_curve(figure: go.Figure, rows: pd.DataFrame, condition: str, *, colour: str, **style: Any) -> None:
    """Add the nets of a condition to a figure, and the fitted curve; the midpoint stands in the legend.

    Args:
        figure: Is added to.
        rows: Measurements.
        condition: Whose nets; without any, nothing is added.
        colour: Of points and curve.
        **style: Where they go (row, column), and whether the points stand in the legend.
    """
    table, found = points(rows, condition), transition_of(rows, condition)
    if table.empty:
        return
    name = f"{condition}{_midpoint_in_words(found)}"
    marks = {"mode": "markers", "marker_color": colour, "name": name, "legendgroup": condition}
    figure.add_scatter(x=table["n_train"], y=table[ACCURACY], **marks, **style)
    if found is not None and found.midpoint is not None:
        low, high = float(found.n_train.min()), float(found.n_train.max())
        sizes = [low * (high / low) ** (step / 100) for step in range(101)]
        line = {"mode": "lines", "line": {"color": colour}, "hoverinfo": "skip", "legendgroup": condition}
        figure.add_scatter(x=sizes, y=found.curve(sizes), **line, **{**style, "showlegend": False})


def _midpoint_in_words(found: Transition | None) -> str:
    """A midpoint with its interval; nothing where there is none."""
    if found is None or found.midpoint is None:
        return ""
    interval = "" if isnan(found.low) else f" [{found.low:.0f}, {found.high:.0f}]"
    return f": {found.midpoint:.0f}{interval}"
