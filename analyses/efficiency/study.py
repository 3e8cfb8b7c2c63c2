"""Which circuit needs less parameter norm for the same logit, and how that depends on the number of training pairs.

    circuit-lab reproduce efficiency --scale small --seeds 3

Pure nets are compared: memorising ones, trained on random labels (of two kinds), and generalising ones, trained on many
pairs until the held-out logits are trigonometric, some of them then on few. Norms are read at one correct logit, that
of each net with all its weights scaled alike.
"""

from collections.abc import Callable
from math import nan

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.circuit_efficiency import (
    COMPONENTS,
    DECAYS,
    GENERALISED,
    MEMORISED,
    RANDOM_LABELS,
    RETRAINED,
    memorising,
    retrained,
    trained,
)
from circuit_lab.studies.pure_nets import (
    COMMON_LOGIT,
    GENERALISING,
    LOGIT,
    MEMORISING,
    NORM,
    NORM_AT,
    SCALE,
    add_norm_curve,
    net_rows,
    norm_curve,
    pure_nets,
)

CONDITIONS = (*MEMORISING.values(), GENERALISING)


def runs_of(seed: int) -> list[tuple[StudyRun, str]]:
    """Each run, and what it is a case of."""
    rote = [
        (memorising(seed, labels, share=share, decay=decay), MEMORISING[labels])
        for labels in RANDOM_LABELS
        for share in MEMORISED
        for decay in DECAYS
    ]
    pure = [(trained(seed, share=share, decay=decay), GENERALISING) for share in GENERALISED for decay in DECAYS]
    pure += [(retrained(seed, share=share, decay=decay), GENERALISING) for share in RETRAINED for decay in DECAYS]
    return rote + pure


def runs(seed: int) -> list[StudyRun]:
    """All runs of a seed."""
    return [run for run, _ in runs_of(seed)]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Norms and logits of every net at its last step, and whether it is pure."""
    return pd.concat([net_rows(lab, *each) for each in runs_of(seed)], ignore_index=True)


def slope(condition: str) -> Callable[[pd.DataFrame], float]:
    """Reads the slope of log norm, at the common logit, over log D; nan of nets whose sizes lie close together.

    Each weight decay has a constant of its own, for nets of one decay may be pure at more sizes than those of another.
    """

    def read(rows: pd.DataFrame) -> float:
        table = pure_nets(rows, condition)
        if table.empty or table["n_train"].max() < SMALLEST_SPAN * table["n_train"].min():
            return nan
        logs = np.log(table[["n_train", NORM_AT]])
        of_decay = logs - logs.groupby(table["weight_decay"]).transform("mean")
        return float((of_decay["n_train"] * of_decay[NORM_AT]).sum() / (of_decay["n_train"] ** 2).sum())

    return read


def steeper(rows: pd.DataFrame) -> float:
    """Reads by how much the memorising slope exceeds the generalising one."""
    return slope(MEMORISING["random"])(rows) - slope(GENERALISING)(rows)


SMALLEST_SPAN = 3.0
"""Largest over smallest number of pairs from which on a slope is read."""
RISES = Bound(low=0.1)
_P1 = "P1: memorising gets less efficient as D grows; generalising does not ([Varma] section 5.1, figure 3)"
CLAIMS = (
    Claim(
        name="memorising_costs_more_with_more_pairs",
        published=_P1,
        quantity="random labels: slope of log norm, at a correct logit of 45, over log D; 0 where D does not matter",
        holds_if=RISES,
        value=slope(MEMORISING["random"]),
        chance=0.0,
    ),
    Claim(
        name="memorising_mirrored_labels_costs_more_with_more_pairs",
        published=_P1,
        quantity="the same with equal random labels for (a, b) and (b, a)",
        holds_if=RISES,
        value=slope(MEMORISING["random_commutative"]),
        chance=0.0,
    ),
    Claim(
        name="generalising_costs_the_same",
        published=_P1,
        quantity="generalising nets: the same slope",
        holds_if=Bound(-0.1, 0.1),
        value=slope(GENERALISING),
        chance=0.0,
    ),
    Claim(
        name="memorising_is_steeper",
        published=_P1,
        quantity="slope of random labels less that of generalising nets",
        holds_if=RISES,
        value=steeper,
        chance=0.0,
    ),
)


def logit_against_norm(rows: pd.DataFrame) -> go.Figure:
    """Correct logit, and the logits' scale, against norm: a point per pure net, coloured by its training pairs."""
    titles = [wrapped(condition, 34) for condition in CONDITIONS]
    figure = make_subplots(rows=2, cols=len(CONDITIONS), shared_yaxes=True, subplot_titles=titles, vertical_spacing=0.1)
    for col, condition in enumerate(CONDITIONS, start=1):
        for colour, (n_train, part) in zip(LINE_COLOURS, pure_nets(rows, condition).groupby("n_train"), strict=False):
            name = f"D = {n_train}, {condition.split(',')[0]}"
            for row, quantity in ((1, LOGIT), (2, SCALE)):
                is_new = name not in {trace.name for trace in figure.data}
                style = {"mode": "markers", "name": name, "legendgroup": name, "showlegend": is_new}
                marker = {"color": colour, "size": 8}
                figure.add_scatter(x=part[NORM], y=part[quantity], marker=marker, row=row, col=col, **style)
        figure.update_xaxes(title_text="parameter norm", row=2, col=col)
    figure.update_yaxes(title_text="correct logit, centred", row=1, col=1)
    figure.update_yaxes(title_text="logit scale (rms, centred)", row=2, col=1)
    n = rows["seed"].nunique()
    title = wrapped(f"What a parameter norm buys, by number of training pairs D; pure nets of {n} seeds")
    figure.update_layout(title=title, width=1100, height=720, **LAYOUT)
    return figure


def norm_against_size(rows: pd.DataFrame) -> go.Figure:
    """Norm at one correct logit against D, with the interval over seeds."""
    figure = go.Figure()
    for colour, condition in zip(LINE_COLOURS, CONDITIONS, strict=False):
        curve = norm_curve(rows, condition)
        if curve is not None:
            add_norm_curve(figure, curve, name=condition, line={"color": colour})
    figure.update_xaxes(title_text="training pairs D", type="log")
    figure.update_yaxes(title_text="parameter norm", rangemode="tozero")
    n = rows["seed"].nunique()
    title = (
        f"Norm at a correct logit of {COMMON_LOGIT:g}, weight decay 1: mean of {n} seeds and 95 % bootstrap interval"
    )
    figure.update_layout(title=wrapped(title), width=1000, height=520, **LAYOUT)
    return figure


def components(rows: pd.DataFrame) -> go.Figure:
    """Which component holds the norm, by D: the share of its square, at weight decay 1."""
    figure = make_subplots(
        rows=1, cols=len(CONDITIONS), shared_yaxes=True, subplot_titles=[wrapped(c, 34) for c in CONDITIONS]
    )
    for col, condition in enumerate(CONDITIONS, start=1):
        table = pure_nets(rows, condition)
        table = pd.DataFrame(table[table["weight_decay"] == 1.0]) if len(table) else table
        for colour, name in zip(LINE_COLOURS, COMPONENTS, strict=False):
            if table.empty:
                continue
            share = (table[f"norm, {name}"] / table[NORM]) ** 2
            mean = share.groupby(table["n_train"]).mean()
            style = {"name": name, "legendgroup": name, "showlegend": col == 1}
            figure.add_bar(x=[str(size) for size in mean.index], y=mean, marker_color=colour, row=1, col=col, **style)
        figure.update_xaxes(title_text="training pairs D", type="category", row=1, col=col)
    figure.update_yaxes(title_text="share of the squared norm", range=[0, 1], row=1, col=1)
    title = wrapped(f"Where the norm is, weight decay 1: mean of {rows['seed'].nunique()} seeds")
    figure.update_layout(title=title, width=1100, height=480, barmode="stack", **LAYOUT)
    return figure


STUDY = Study(
    name="efficiency",
    title="Circuit efficiency: what norm a logit costs, by number of training pairs",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={
        "logit_against_norm": logit_against_norm,
        "norm_against_size": norm_against_size,
        "components": components,
    },
)
