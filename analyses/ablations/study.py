"""What the delay of grokking follows: weight decay, its form, the precision of the loss, the norm, the output's scale.

    circuit-lab reproduce ablations --scale small --seeds 3

One net on one set of pairs, trained in ten ways. The delay is the ratio of the steps to answering held-out pairs to
those to answering the training pairs.
"""

from collections.abc import Callable, Mapping
from math import inf, isnan, nan
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
from circuit_lab.studies.ranges import UNKNOWN, Range, decided, ratio_of
from circuit_lab.studies.timeline import first_step, last_value, series, steps_to

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


def delay_of(rows: pd.DataFrame, condition: str) -> Range:
    """The steps to solve over the steps to know; known from one side where the first takes longer than the run."""
    solved = steps_to(rows, condition, ACCURACY, HELD_OUT, level=SOLVED)
    known = steps_to(rows, condition, TRAIN_ACCURACY, "train", level=KNOWN)
    return UNKNOWN if known[1] == inf else ratio_of(solved, known)


def delay(condition: str, holds_if: Bound) -> Callable[[pd.DataFrame], float]:
    """Reads the delay of a condition, where what is known of it decides a claim; else nan."""
    return lambda rows: decided(delay_of(rows, condition), holds_if)


def delay_over(condition: str, other: str, holds_if: Bound) -> Callable[[pd.DataFrame], float]:
    """Reads the delay of one condition over that of another, where what is known of both decides a claim; else nan."""
    return lambda rows: decided(ratio_of(delay_of(rows, condition), delay_of(rows, other)), holds_if)


def solved_at_end(condition: str) -> Callable[[pd.DataFrame], float]:
    """Reads the held-out accuracy at the last step."""
    return lambda rows: last_value(rows, condition, ACCURACY, HELD_OUT)


def float32_falls_short(rows: pd.DataFrame) -> float:
    """Reads the held-out accuracy at the end of nets without decay, with the loss in float64 less that in float32."""
    return solved_at_end(NO_DECAY)(rows) - solved_at_end(NO_DECAY_32)(rows)


def norm_at_solution(rows: pd.DataFrame) -> float:
    """Reads the norm with decay 1 where held-out pairs are solved, over its largest before; nan if they never are."""
    step = first_step(rows, DECAY, ACCURACY, HELD_OUT, level=SOLVED)
    norm = series(rows, DECAY, NORM, "all weights")
    before = norm[norm["step"] <= step]
    return nan if isnan(step) else float(before["value"].iloc[-1] / before["value"].max())


DELAYED, AT_ONCE, LONGER = Bound(low=3.0), Bound(high=3.0), Bound(low=1.5)
_COLLAPSE = "Without regularisation float32 training stalls: softmax collapse (Prieto et al. 2025, arXiv 2501.04697)"
_NORM = "The delay is that of the norm's way to where nets generalise; held there, nets generalise without delay (Liu, "
_NORM += "Michaud and Tegmark 2023, arXiv 2210.01117)"
_CENSORED = ". A run that does not get there takes longer than its steps: the ratio is then known from one side, and "
_CENSORED += "untested where that leaves it open"
_DELAY = "steps to .9 of held-out pairs over steps to .99 of the training pairs"
CLAIMS = (
    Claim(
        name="there_is_a_delay",
        published="Grokking: test accuracy rises long after training accuracy ([Nanda] section 3, [Varma] section 2)",
        quantity=f"AdamW, decay 1: {_DELAY}; ratio, > 0{_CENSORED}",
        holds_if=DELAYED,
        value=delay(DECAY, DELAYED),
        chance=1.0,
    ),
    Claim(
        name="without_decay_it_is_longer",
        published="Weight decay is what moves nets to the generalising circuit ([Varma] section 3)",
        quantity=f"the delay ({_DELAY}) without decay over that with decay 1, losses in float64; ratio, > 0{_CENSORED}",
        holds_if=LONGER,
        value=delay_over(NO_DECAY, DECAY, LONGER),
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
        quantity="no decay: accuracy on held-out pairs at the end with the loss in float64 less that in float32, in "
        "[-1, 1]",
        holds_if=Bound(low=0.5),
        value=float32_falls_short,
        chance=0.0,
    ),
    Claim(
        name="l2_in_the_loss_groks",
        published="Ours: decay need not be decoupled",
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
        quantity=f"norm fixed at its first value: {_DELAY}; ratio, > 0{_CENSORED}",
        holds_if=AT_ONCE,
        value=delay(NORM_FIXED, AT_ONCE),
        chance=1.0,
    ),
    Claim(
        name="held_at_a_larger_norm_it_is_longer",
        published=_NORM,
        quantity=f"the delay ({_DELAY}) with a larger norm fixed over that with the first norm fixed; ratio, > "
        f"0{_CENSORED}",
        holds_if=LONGER,
        value=delay_over(LARGE_NORM, NORM_FIXED, LONGER),
        chance=1.0,
    ),
    Claim(
        name="a_larger_output_scale_delays",
        published="The delay grows with the output's scale, which makes learning lazy (Kumar et al. 2024, arXiv "
        "2310.06110)",
        quantity=f"norm fixed: the delay ({_DELAY}) with logits times 4 over that with logits times .25; ratio, > "
        f"0{_CENSORED}",
        holds_if=LONGER,
        value=delay_over(LOUD, QUIET, LONGER),
        chance=1.0,
    ),
)


def accuracies(rows: pd.DataFrame) -> go.Figure:
    """Accuracy on training and held-out pairs against steps, a panel per condition."""
    lines = [(TRAIN_ACCURACY, "train", "training pairs"), (ACCURACY, HELD_OUT, "held-out pairs")]
    return timeline_panels(rows, list(CONDITIONS), lines, title="Accuracy by way of training", n_cols=2)


def norms(rows: pd.DataFrame) -> go.Figure:
    """Norm of all weights against steps, a line per condition that does not fix it."""
    figure = make_subplots()
    free = [name for name, changes in CONDITIONS.items() if "optimizer.fixed_norm" not in changes]
    for colour, condition in zip(LINE_COLOURS, free, strict=True):
        norm = series(rows, condition, NORM, "all weights")
        style = {"name": condition, "legendgroup": condition, "row": 1, "col": 1}
        add_mean_and_seeds(figure, norm, colour=colour, showlegend=True, **style)
    figure.update_xaxes(title_text="optimiser steps")
    figure.update_yaxes(title_text="norm of all weights", rangemode="tozero")
    title = wrapped(
        f"Norm by way of training, where it is not fixed: mean of {rows['seed'].nunique()} seeds (bold) and each seed"
    )
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
