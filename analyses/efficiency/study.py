"""Which circuit needs less parameter norm for the same logit, and how that depends on the number of training pairs.

    circuit-lab reproduce efficiency --scale small --seeds 3

Pure nets are compared: memorising ones, trained on random labels (of two kinds), and generalising ones, trained on many
pairs until the held-out logits are trigonometric. Each is trained with three weight decays, so that norms can be read
at one correct logit.
"""

from collections.abc import Callable
from math import isnan, nan

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab import load_checkpoint
from circuit_lab.measures import (
    PURE_NORM_SHARE,
    EfficiencyRow,
    generalising_norm_share,
    logit_efficiency,
    norm_at_logit,
    weight_norms,
)
from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.circuit_efficiency import (
    COMPONENTS,
    DECAYS,
    GENERALISED,
    MEMORISED,
    RANDOM_LABELS,
    memorising,
    trained,
)
from circuit_lab.tasks import ModularTask
from circuit_lab.training import Checkpoint

GENERALISING = "generalising"
MEMORISING = {
    "random": "memorising, random labels",
    "random_commutative": "memorising, equal labels for (a, b), (b, a)",
}
CONDITIONS = (*MEMORISING.values(), GENERALISING)
LEARNT = 0.99
"""Share of the training pairs that a memorising net must answer as trained to count as one."""
LOGIT, NORM, SCALE = "correct logit", "norm", "logit scale"


def runs_of(seed: int) -> list[tuple[StudyRun, str, float]]:
    """Each run, what it is a case of, and its weight decay."""
    rote = [
        (memorising(seed, labels, share=share, decay=decay), MEMORISING[labels], decay)
        for labels in RANDOM_LABELS
        for share in MEMORISED
        for decay in DECAYS
    ]
    pure = [(trained(seed, share=share, decay=decay), GENERALISING, decay) for share in GENERALISED for decay in DECAYS]
    return rote + pure


def runs(seed: int) -> list[StudyRun]:
    """All runs of a seed."""
    return [run for run, *_ in runs_of(seed)]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Norms and logits of every net at its last step, and whether it is pure."""
    return pd.concat([net_rows(lab, *each) for each in runs_of(seed)], ignore_index=True)


def net_rows(lab: Lab, run: StudyRun, condition: str, decay: float) -> pd.DataFrame:
    """What one net's norm buys."""
    checkpoint = load_checkpoint(lab.last(run))
    net, task = checkpoint.net, checkpoint.task
    assert isinstance(task, ModularTask), "these runs are of modular tasks"
    found, norms = logit_efficiency(net, task.training), weight_norms(net)
    n = len(task.training)
    values = {LOGIT: (found.correct_logit, n), SCALE: (found.logit_scale, n), NORM: (norms.total, n)}
    values |= {f"norm, {name}": (norms.components[name], n) for name in COMPONENTS}
    values |= {"pure": purity(checkpoint, task)}
    rows = [{"quantity": name, "value": value, "n": number} for name, (value, number) in values.items()]
    common = {"condition": condition, "step": lab.step(lab.last(run)), "split": "train", "low": nan, "high": nan}
    return pd.DataFrame(rows).assign(**common, n_train=n, weight_decay=decay)


def purity(checkpoint: Checkpoint, task: ModularTask) -> tuple[float, int]:
    """Whether a net is the pure case that its labels make it (1 or 0), and on how many pairs that is read.

    A memorising net must know its labels; a generalising one have more than `PURE_NORM_SHARE` of the norm of its
    held-out logits in the generalising part.
    """
    if task.config.labels != "true":
        return float(checkpoint.metrics["train"] >= LEARNT), len(task.training)
    share = generalising_norm_share(checkpoint.net, task)
    return float(share > PURE_NORM_SHARE), len(task.splits["test_unmirrored"])


def nets(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """One row per pure net of a condition: condition, n_train, weight_decay, seed, and a column per quantity."""
    chosen = rows[rows["condition"] == condition]
    wide = chosen.pivot_table("value", ["condition", "seed", "n_train", "weight_decay"], "quantity").reset_index()
    return pd.DataFrame(wide[(wide["pure"] == 1) & (wide[LOGIT] > 0)]) if len(wide) else wide


def common_logit(table: pd.DataFrame) -> float:
    """A correct logit that the nets of every condition, size and seed lie on both sides of; nan if there is none."""
    if table.empty:
        return nan
    ends = table.groupby(["condition", "seed", "n_train"])[LOGIT].agg(["min", "max"])
    low, high = float(ends["min"].max()), float(ends["max"].min())
    return (low * high) ** 0.5 if low <= high else nan


def efficiency_rows(table: pd.DataFrame, condition: str) -> list[EfficiencyRow]:
    """Nets as rows of the efficiency table."""
    kind = "generalising" if condition == GENERALISING else "memorising"
    return [
        EfficiencyRow(
            float(net[LOGIT]), float(net[NORM]), int(net["n_train"]), float(net["weight_decay"]), int(net["seed"]), kind
        )
        for net in table.to_dict("records")
    ]


def slope_at(rows: pd.DataFrame, condition: str, logit: float) -> float:
    """The slope of log norm at a correct logit over log D, over all sizes; nan if a size has no such norm."""
    table = nets(rows, condition)
    sizes = rows[rows["condition"] == condition]["n_train"].nunique()
    if isnan(logit) or table["n_train"].nunique() < sizes:
        return nan
    found = norm_at_logit(efficiency_rows(table, condition), logit=logit, n_resamples=1)
    return float(np.polyfit(np.log(found.n_train), np.log(found.norm), 1)[0])  # nan where a norm is


def slope(condition: str) -> Callable[[pd.DataFrame], float]:
    """Reads the slope of a condition, at a correct logit that all its nets lie on both sides of."""
    return lambda rows: slope_at(rows, condition, common_logit(nets(rows, condition)))


def steeper(rows: pd.DataFrame) -> float:
    """Reads by how much the memorising slope exceeds the generalising one, both at one correct logit."""
    conditions = (MEMORISING["random"], GENERALISING)
    logit = common_logit(pd.concat([nets(rows, condition) for condition in conditions]))
    rote, general = (slope_at(rows, condition, logit) for condition in conditions)
    return rote - general


RISES = Bound(low=0.1)
_P1 = "P1: memorising gets less efficient as D grows; generalising does not ([Varma] section 5.1, figure 3)"
CLAIMS = (
    Claim(
        name="memorising_costs_more_with_more_pairs",
        published=_P1,
        quantity="random labels: slope of log norm, at one correct logit, over log D; 0 where D does not matter",
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
        quantity="slope of random labels less that of generalising nets, both at one correct logit",
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
        for colour, (n_train, part) in zip(LINE_COLOURS, nets(rows, condition).groupby("n_train"), strict=False):
            name = f"D = {n_train}, {condition.split(',')[0]}"
            for row, quantity in ((1, LOGIT), (2, SCALE)):
                style = {"mode": "markers", "name": name, "legendgroup": name, "showlegend": row == 1}
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
    tables = {condition: nets(rows, condition) for condition in CONDITIONS}
    shared = common_logit(pd.concat(tables.values()))
    figure = go.Figure()
    for colour, (condition, table) in zip(LINE_COLOURS, tables.items(), strict=False):
        logit = common_logit(table) if isnan(shared) else shared
        if isnan(logit):  # its nets lie on one side of every logit
            continue
        found = norm_at_logit(efficiency_rows(table, condition), logit=logit)
        figure.add_scatter(
            x=found.n_train,
            y=found.norm,
            error_y={"array": found.high - found.norm, "arrayminus": found.norm - found.low},
            name=f"{condition}, at logit {logit:.1f}",
            line={"color": colour},
        )
    figure.update_xaxes(title_text="training pairs D", type="log")
    figure.update_yaxes(title_text="parameter norm", rangemode="tozero")
    title = wrapped(f"Norm for one correct logit: mean of {rows['seed'].nunique()} seeds and 95 % bootstrap interval")
    figure.update_layout(title=title, width=1000, height=520, **LAYOUT)
    return figure


def components(rows: pd.DataFrame) -> go.Figure:
    """Which component holds the norm, by D: the share of its square, at weight decay 1."""
    figure = make_subplots(
        rows=1, cols=len(CONDITIONS), shared_yaxes=True, subplot_titles=[wrapped(c, 34) for c in CONDITIONS]
    )
    for col, condition in enumerate(CONDITIONS, start=1):
        table = nets(rows, condition)
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
