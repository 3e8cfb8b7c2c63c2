"""How fast each circuit is learnt: random labels, and true labels of most pairs, from the same initial weights.

    circuit-lab reproduce speed_of_learning --scale small --seeds 3

That memorising is learnt sooner is one of the three things that [Varma] says grokking needs.
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Lab, Study, StudyRun
from circuit_lab.studies.accuracy_by_size import HELD_OUT
from circuit_lab.studies.circuit_efficiency import variant
from circuit_lab.studies.figures import add_mean_and_seeds
from circuit_lab.studies.modular_metrics import PROBABILITY, metric_rows
from circuit_lab.studies.timeline import series, steps_claim

STEPS = 0.2
"""Length of every run, as a multiple of the recipe's: 3,000 steps at small scale."""
ROTE_SHARES, TRUE_SHARES = (0.1, 0.2, 0.4), (0.65, 0.8)
"""Shares of the pairs; grokking with a delay is seen at .4."""
LEARNT = 0.9
"""Probability of the answer, as a geometric mean, from which on something is learnt; a guess has 1 / p."""


def rote(share: float) -> str:
    """What nets that learn random labels are called."""
    return f"random labels of {share:g} of the pairs"


def true(share: float) -> str:
    """What nets that learn the operation are called."""
    return f"true labels of {share:g} of the pairs"


CONDITIONS = {rote(share): "train" for share in ROTE_SHARES} | {true(share): HELD_OUT for share in TRUE_SHARES}
"""The split that tells that the circuit is learnt: the net's own pairs by rote, held-out ones by the operation."""


def runs(seed: int) -> list[StudyRun]:
    """One run per condition, all from the same initial weights."""
    often = {"evaluation.every": 10, "checkpoints.every": 3000}
    random = {"task.labels": "random", "task.label_seed": seed}
    settings = {rote(share): {"task.train_share": share} | random for share in ROTE_SHARES}
    settings |= {true(share): {"task.train_share": share} for share in TRUE_SHARES}
    return [variant(seed, f"speed/{name}", often | changes, steps=STEPS) for name, changes in settings.items()]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Probabilities of the answer, accuracies and norms at every evaluation."""
    pairs = zip(runs(seed), CONDITIONS, strict=True)
    return pd.concat([metric_rows(lab, run, condition) for run, condition in pairs], ignore_index=True)


CLAIMS = tuple(
    steps_claim(
        f"memory_is_sooner_than_the_operation_from_{round(100 * share)}_percent",
        (true(share), PROBABILITY, HELD_OUT, LEARNT),
        (rote(ROTE_SHARES[-1]), PROBABILITY, "train", LEARNT),
        times=1.5,
        published="The generalising circuit is learnt more slowly than the memorising one ([Varma] section 3)",
        quantity=f"steps until the answer to held-out pairs has a probability of {LEARNT:g} (geometric mean), with "
        f"true labels of {share:g} of the pairs, over steps to the same on {ROTE_SHARES[-1]:g} of the pairs with "
        "random labels; ratio, > 0. A run that does not get there takes longer than its steps: the ratio is then known "
        "from one side",
    )
    for share in TRUE_SHARES
)


def learning_curves(rows: pd.DataFrame) -> go.Figure:
    """Probability of the answer against steps, a line per condition."""
    figure = make_subplots()
    for colour, (condition, split) in zip(LINE_COLOURS, CONDITIONS.items(), strict=False):
        where = "own pairs" if split == "train" else "held-out pairs"
        style = {"name": f"{condition}: {where}", "legendgroup": condition, "row": 1, "col": 1}
        points = series(rows, condition, PROBABILITY, split)
        add_mean_and_seeds(figure, points, colour=colour, showlegend=True, **style)
    figure.add_hline(LEARNT, line_dash="dot", annotation_text="learnt")
    figure.update_xaxes(title_text="optimiser steps")
    figure.update_yaxes(title_text="probability of the answer (geometric mean)", range=[-0.03, 1.03])
    n = rows["seed"].nunique()
    title = f"How fast each circuit is learnt from one start: mean of {n} seeds (bold) and each seed; chance below .02"
    figure.update_layout(title=wrapped(title), width=1000, height=560, **LAYOUT)
    return figure


STUDY = Study(
    name="speed_of_learning",
    title="Speed of learning: rote against the operation, from one start",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"learning_curves": learning_curves},
)
