"""What the norm of a pure net buys: the measurements of the studies that compare circuits by their efficiency."""

from collections.abc import Sequence
from math import nan
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuit_lab.measures import (
    EfficiencyRow,
    NormAtLogit,
    is_pure_circuit,
    logit_efficiency,
    norm_at_logit,
    scaled_norm,
    weight_norms,
)
from circuit_lab.studies.circuit_efficiency import COMPONENTS, DECAY
from circuit_lab.studies.lab import Lab
from circuit_lab.studies.study import StudyRun
from circuit_lab.tasks import ModularTask
from circuit_lab.training import load_checkpoint

GENERALISING = "generalising"
MEMORISING = {
    "random": "memorising, random labels",
    "random_commutative": "memorising, equal labels for (a, b), (b, a)",
}
"""What memorising nets are called, by the kind of their labels."""
LOGIT, NORM, SCALE = "correct logit", "norm", "logit scale"
COMMON_LOGIT = 45.0
"""The correct logit that norms are compared at; at small scale nets end at 33 to 89."""
NORM_AT = f"norm at logit {COMMON_LOGIT:g}"
_QUANTITIES = (LOGIT, SCALE, NORM, *(f"{NORM}, {name}" for name in COMPONENTS), NORM_AT, "pure")


def net_rows(lab: Lab, run: StudyRun, condition: str) -> pd.DataFrame:
    """What one net's norm buys at its last step, and whether the net is pure.

    Args:
        lab: The finished runs.
        run: One of them, on modular arithmetic.
        condition: What it is a case of.

    Returns:
        Rows with the columns of `COLUMNS`, `n_train` and `weight_decay`.
    """
    checkpoint = load_checkpoint(lab.last(run))
    net, task = checkpoint.net, checkpoint.task
    assert isinstance(task, ModularTask) and checkpoint.recipe is not None, "these runs are of modular tasks"
    found, norms = logit_efficiency(net, task.training), weight_norms(net)
    n = len(task.training)
    values = {LOGIT: (found.correct_logit, n), SCALE: (found.logit_scale, n), NORM: (norms.total, n)}
    values |= {f"{NORM}, {name}": (norms.components[name], n) for name in COMPONENTS}
    values |= {NORM_AT: (scaled_norm(net, task.training, logit=COMMON_LOGIT), n)}
    values |= {"pure": (float(is_pure_circuit(net, task)), n)}
    rows = [{"quantity": name, "value": value, "n": number} for name, (value, number) in values.items()]
    common = {"condition": condition, "step": lab.step(lab.last(run)), "split": "train", "low": nan, "high": nan}
    decay = checkpoint.recipe["optimizer"]["weight_decay"]
    return pd.DataFrame(rows).assign(**common, n_train=n, weight_decay=decay)


def pure_nets(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The pure nets of a condition that can be read at the common logit: a row each, a column per quantity."""
    chosen = rows[(rows["condition"] == condition) & rows["quantity"].isin(_QUANTITIES)]
    wide = chosen.pivot_table("value", ["seed", "n_train", "weight_decay"], "quantity").reset_index()
    if not {"pure", NORM_AT} <= set(wide):
        return pd.DataFrame(columns=["seed", "n_train", "weight_decay", *_QUANTITIES])
    return pd.DataFrame(wide[(wide["pure"] == 1) & wide[NORM_AT].notna()])


def efficiency_rows(table: pd.DataFrame, condition: str) -> list[EfficiencyRow]:
    """Pure nets of one condition as rows of the efficiency table, all at the common logit."""
    kind = "generalising" if condition == GENERALISING else "memorising"
    return [
        EfficiencyRow(
            correct_logit=COMMON_LOGIT,
            norm=float(net[NORM_AT]),
            n_train=int(net["n_train"]),
            weight_decay=float(net["weight_decay"]),
            seed=int(net["seed"]),
            kind=kind,
        )
        for net in table.to_dict("records")
    ]


def norm_curve(rows: pd.DataFrame, condition: str, *, flat_over: Sequence[int] = ()) -> NormAtLogit | None:
    """Norm at the common logit against D, over seeds, at decay 1.

    Args:
        rows: Measurements.
        condition: Whose nets.
        flat_over: Sizes; if any, the norm is taken not to depend on D: each seed's mean over its nets, at these sizes.

    Returns:
        The curve; None without pure nets.
    """
    table = pure_nets(rows, condition)
    table = pd.DataFrame(table[table["weight_decay"] == DECAY])
    if flat_over:
        table = pd.concat([table.assign(n_train=size) for size in flat_over])
    return None if table.empty else norm_at_logit(efficiency_rows(table, condition), logit=COMMON_LOGIT)


def add_norm_curve(figure: go.Figure, curve: NormAtLogit, **style: Any) -> None:
    """Add a curve of norm against D to a figure, with its intervals over seeds."""
    error = {"array": curve.high - curve.norm, "arrayminus": curve.norm - curve.low}
    figure.add_scatter(x=curve.n_train, y=curve.norm, error_y=error, **style)
