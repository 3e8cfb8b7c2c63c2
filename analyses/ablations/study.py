"""What the delay of grokking follows: weight decay, its form, the precision of the loss, the norm, the output's scale.

    circuit-lab reproduce ablations --scale small --seeds 3

One net on one set of pairs, trained in ten ways. The delay is the ratio of the steps to answering held-out pairs to
those to answering the training pairs.
"""

from collections.abc import Callable, Mapping
from itertools import cycle
from math import isnan, nan
from types import MappingProxyType
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.accuracy_by_size import ACCURACY, HELD_OUT, TRAIN_ACCURACY
from circuit_lab.studies.circuit_efficiency import variant
from circuit_lab.studies.figures import add_mean_and_seeds, timeline_panels
from circuit_lab.studies.modular_metrics import COLLAPSED, NORM, metric_rows
from circuit_lab.studies.timeline import first_step, last_value, series, times_the_steps

SHARE, STEPS = 0.45, 0.6
"""Share of the pairs, at which decay 1 memorises and then groks, and length as a multiple of the recipe's."""
FIXED = {"optimizer.weight_decay": 0.0, "optimizer.fixed_norm": True}
DECAY, NO_DECAY, NO_DECAY_32 = "AdamW, decay 1", "no decay", "no decay, loss in float32"
L2, L1 = "L2 in the loss", "L1 in the loss"
NORM_FIXED, LARGE_NORM = "norm fixed", "larger norm fixed"
LOUD, QUIET = "norm fixed, logits times 4", "norm fixed, logits times 0.25"
CONDITIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        DECAY: {},
        "decay 1, loss in float32": {"training.loss_dtype": "float32"},
        NO_DECAY: {"optimizer.weight_decay": 0.0},
        NO_DECAY_32: {"optimizer.weight_decay": 0.0, "training.loss_dtype": "float32"},
        L2: {"optimizer.weight_decay": 0.0, "optimizer.l2": 1e-4},
        L1: {"optimizer.weight_decay": 0.0, "optimizer.l1": 2e-5},
        NORM_FIXED: FIXED,
        LARGE_NORM: FIXED | {"net.init_std": 0.1875},
        LOUD: FIXED | {"training.logit_scale": 4.0},
        QUIET: FIXED | {"training.logit_scale": 0.25},
    }
)
"""What is different from the recipe."""
KNOWN, SOLVED = 0.99, 0.9
"""Accuracies from which on the training pairs are known, and the held-out ones solved."""


def runs(seed: int) -> list[StudyRun]:
    """One run per condition."""
    settings = {"task.train_share": SHARE, "evaluation.every": 50, "checkpoints.every": 3000}
    return [
        variant(seed, f"ablations/{name}", settings | dict(changes), steps=STEPS)
        for name, changes in CONDITIONS.items()
    ]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracies, norm and collapsed share at every evaluation."""
    pairs = zip(runs(seed), CONDITIONS, strict=True)
    return pd.concat([metric_rows(lab, run, condition) for run, condition in pairs], ignore_index=True)


def steps_to_solve(rows: pd.DataFrame, condition: str) -> float:
    """The first step at which held-out pairs are solved; nan if they never are."""
    return first_step(rows, condition, ACCURACY, HELD_OUT, level=SOLVED)


def delay(condition: str) -> Callable[[pd.DataFrame], float]:
    """Reads the steps to solve over the steps to know; nan where either is not reached."""
    return lambda rows: (
        steps_to_solve(rows, condition) / first_step(rows, condition, TRAIN_ACCURACY, "train", level=KNOWN)
    )


def solved_at_end(condition: str) -> Callable[[pd.DataFrame], float]:
    """Reads the held-out accuracy at the last step."""
    return lambda rows: last_value(rows, condition, ACCURACY, HELD_OUT)


def slower(condition: str, than: str, *, times: float) -> Callable[[pd.DataFrame], float]:
    """Reads how many times as many steps one condition takes to solve as another; see `times_the_steps`."""
    later, earlier = ((name, ACCURACY, HELD_OUT, SOLVED) for name in (condition, than))
    return times_the_steps(later, earlier, holds_from=times)


def norm_at_solution(rows: pd.DataFrame) -> float:
    """Reads the norm with decay 1 where held-out pairs are solved, over its largest before; nan if they never are."""
    step = steps_to_solve(rows, DECAY)
    norm = series(rows, DECAY, NORM, "all weights")
    before = norm[norm["step"] <= step]
    return nan if isnan(step) else float(before["value"].iloc[-1] / before["value"].max())


_COLLAPSE = "Without regularisation float32 training stalls: softmax collapse (Prieto et al. 2025, arXiv 2501.04697)"
_NORM = "The delay is that of the norm's way to where nets generalise; held there, nets generalise without delay (Liu, "
_NORM += "Michaud and Tegmark 2023, arXiv 2210.01117)"
CLAIMS = (
    Claim(
        name="there_is_a_delay",
        published="Grokking: test accuracy rises long after training accuracy ([Nanda] section 3, [Varma] section 2)",
        quantity="AdamW, decay 1: steps to .9 of held-out pairs over steps to .99 of the training pairs; ratio, > 0",
        holds_if=Bound(low=3.0),
        value=delay(DECAY),
        chance=1.0,
    ),
    Claim(
        name="without_decay_it_is_longer",
        published="Without weight decay nets do not grok, or later ([Nanda] appendix D, [Varma] section 3)",
        quantity="steps to .9 of held-out pairs without decay over those with decay 1, losses in float64; ratio, > 0. "
        "A run that never gets there counts with all its steps, as a lower bound",
        holds_if=Bound(low=2.0),
        value=slower(NO_DECAY, DECAY, times=2.0),
        chance=1.0,
    ),
    Claim(
        name="float32_collapses",
        published=_COLLAPSE,
        quantity="no decay, loss in float32: share of training pairs whose loss is exactly 0 at the end, in [0, 1]",
        holds_if=Bound(low=0.5),
        value=lambda rows: last_value(rows, NO_DECAY_32, COLLAPSED, "train"),
        chance=0.0,
    ),
    Claim(
        name="and_stalls",
        published=_COLLAPSE,
        quantity="no decay, loss in float32: accuracy on held-out pairs at the end, in [0, 1]; chance is below .03",
        holds_if=Bound(high=0.2),
        value=solved_at_end(NO_DECAY_32),
    ),
    Claim(
        name="l2_in_the_loss_groks",
        published="Weight decay need not be decoupled: L2 in the loss groks, too ([Nanda] appendix D)",
        quantity="L2 in the loss: accuracy on held-out pairs at the end, in [0, 1]",
        holds_if=Bound(low=SOLVED),
        value=solved_at_end(L2),
    ),
    Claim(
        name="the_norm_falls_before",
        published=_NORM,
        quantity="AdamW, decay 1: norm where .9 of held-out pairs are right, over its largest before; in (0, 1]",
        holds_if=Bound(high=0.9),
        value=norm_at_solution,
        chance=1.0,
    ),
    Claim(
        name="held_at_a_small_norm_there_is_no_delay",
        published=_NORM,
        quantity="norm fixed at its first value: steps to .9 of held-out pairs over steps to .99 of the training "
        "pairs; ratio, > 0",
        holds_if=Bound(high=3.0),
        value=delay(NORM_FIXED),
        chance=1.0,
    ),
    Claim(
        name="held_at_a_larger_norm_there_is",
        published=_NORM,
        quantity="steps to .9 of held-out pairs with a larger norm fixed, over those with the first norm fixed; ratio, "
        "> 0. A run that never gets there counts with all its steps, as a lower bound",
        holds_if=Bound(low=2.0),
        value=slower(LARGE_NORM, NORM_FIXED, times=2.0),
        chance=1.0,
    ),
    Claim(
        name="a_larger_output_scale_delays",
        published="The delay grows with the output's scale, which makes learning lazy (Kumar et al. 2024, arXiv "
        "2310.06110)",
        quantity="norm fixed: steps to .9 of held-out pairs with logits times 4 over those with logits times .25; "
        "ratio, > 0. A run that never gets there counts with all its steps, as a lower bound",
        holds_if=Bound(low=1.5),
        value=slower(LOUD, QUIET, times=1.5),
        chance=1.0,
    ),
)


def accuracies(rows: pd.DataFrame) -> go.Figure:
    """Accuracy on training and held-out pairs against steps, a panel per condition."""
    lines = [(TRAIN_ACCURACY, "train", "training pairs"), (ACCURACY, HELD_OUT, "held-out pairs")]
    return timeline_panels(rows, list(CONDITIONS), lines, title="Accuracy by way of training", n_cols=2)


def norms(rows: pd.DataFrame) -> go.Figure:
    """Norm of all weights against steps, a line per condition."""
    figure = make_subplots()
    for colour, condition in zip(cycle((*LINE_COLOURS, "#000000")), CONDITIONS, strict=False):
        norm = series(rows, condition, NORM, "all weights")
        style = {"name": condition, "legendgroup": condition, "row": 1, "col": 1}
        add_mean_and_seeds(figure, norm, colour=colour, showlegend=True, **style)
    figure.update_xaxes(title_text="optimiser steps")
    figure.update_yaxes(title_text="norm of all weights", rangemode="tozero")
    title = wrapped(f"Norm by way of training: mean of {rows['seed'].nunique()} seeds (bold) and each seed")
    figure.update_layout(title=title, width=1000, height=560, **LAYOUT)
    return figure


STUDY = Study(
    name="ablations",
    title="What the delay of grokking follows: decay, precision, norm, output scale",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"accuracies": accuracies, "norms": norms},
)
