"""A net that had grokked is trained on with fewer of its pairs: from how many on does it keep its circuit?

    circuit-lab reproduce ungrokking --scale small --seeds 3

[Varma] predicts that test accuracy falls, sharply, around the size at which memorising becomes the more efficient way,
and that the size does not depend on weight decay.
"""

from collections.abc import Callable
from math import isnan, log, nan

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.accuracy_by_size import (
    ACCURACY,
    HAD_GROKKED,
    accuracy_rows,
    add_points_and_curve,
    midpoint,
    points,
    transition_of,
)
from circuit_lab.studies.circuit_efficiency import DECAY, DECAYS, RETRAINED, SUM, retrained
from circuit_lab.studies.ranges import decided, ratio_of

OPERATIONS = {"a*b": "product", "a^2+b^2": "squares", "a/b": "quotient"}
"""Operation -> what its claim is called; beside a+b, which is tried at every decay and size."""
FEW = RETRAINED[::2]
"""Sizes tried with the other operations."""


def runs_of(seed: int) -> list[tuple[StudyRun, str, float]]:
    """Each run, its operation and its weight decay."""
    sums = [(retrained(seed, share=share, decay=decay), SUM, decay) for decay in DECAYS for share in RETRAINED]
    others = [(retrained(seed, share=share, operation=name), name, DECAY) for name in OPERATIONS for share in FEW]
    return sums + others


def runs(seed: int) -> list[StudyRun]:
    """All runs of a seed."""
    return [run for run, *_ in runs_of(seed)]


def condition_of(operation: str, decay: float) -> str:
    """What nets of one operation and decay are called."""
    return f"{operation}, decay {decay:g}"


CONDITIONS = (*(condition_of(SUM, decay) for decay in DECAYS), *(condition_of(name, DECAY) for name in OPERATIONS))


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracy on held-out pairs of every net before and after, and of all training pairs after."""
    return pd.concat(
        [
            accuracy_rows(lab, run, condition_of(operation, decay), weight_decay=decay)
            for run, operation, decay in runs_of(seed)
        ],
        ignore_index=True,
    )


def at_end(condition: str, *, largest: bool) -> Callable[[pd.DataFrame], float]:
    """Reads the accuracy at the smallest or the largest size."""

    def read(rows: pd.DataFrame) -> float:
        table = points(rows, condition)
        if table.empty:
            return nan
        size = table["n_train"].max() if largest else table["n_train"].min()
        return float(table[table["n_train"] == size][ACCURACY].mean())

    return read


def drop(condition: str) -> Callable[[pd.DataFrame], float]:
    """Reads how much accuracy lies between the largest and the smallest size."""
    large, small = at_end(condition, largest=True), at_end(condition, largest=False)
    return lambda rows: large(rows) - small(rows)


def sharpness(rows: pd.DataFrame) -> float:
    """Reads D at nine tenths of the accuracy over D at one tenth, at decay 1."""
    found = transition_of(rows, condition_of(SUM, DECAY))
    return nan if found is None else found.sharpness


def spread_over_decays(rows: pd.DataFrame) -> float:
    """Reads the largest midpoint of the decays over the smallest; nan where one beyond the sizes leaves it open."""
    lows, highs = zip(*(midpoint(rows, condition_of(SUM, decay)) for decay in DECAYS), strict=True)
    if any(isnan(low) for low in lows):
        return nan
    largest, smallest = (max(lows), max(highs)), (min(lows), min(highs))
    low, high = ratio_of(largest, smallest)
    return decided((max(low, 1.0), high), SAME)


def accuracy_spread(rows: pd.DataFrame) -> float:
    """Reads the largest difference between decays in accuracy at one size, away from the transition."""
    middle, at_most = midpoint(rows, condition_of(SUM, DECAY))
    tables = [points(rows, condition_of(SUM, decay)).set_index("n_train") for decay in DECAYS]
    if middle != at_most or any(table.empty for table in tables):
        return nan
    together = pd.concat([table[ACCURACY] for table in tables], axis=1).dropna()
    away = together[[abs(log(float(str(size)) / middle)) > log(FAR) for size in together.index]]
    return float((away.max(axis=1) - away.min(axis=1)).max()) if len(away) else nan


SAME = Bound(high=1.3)
FAR = 1.5
"""Sizes that differ from the midpoint by more than this factor lie away from the transition."""
_P2 = "P2: a grokked net loses its test accuracy when it is trained on with few pairs ([Varma] section 5.2, figure 4)"
_P3 = "P3: the final test accuracy does not depend on weight decay ([Varma] section 5.2, figure 4)"
CLAIMS = (
    Claim(
        name="few_pairs_ungrok",
        published=_P2,
        quantity="a+b, decay 1, fewest pairs: test accuracy at the end, in [0, 1]; chance is below .03",
        holds_if=Bound(high=0.2),
        value=at_end(condition_of(SUM, DECAY), largest=False),
    ),
    Claim(
        name="many_pairs_do_not",
        published=_P2,
        quantity="a+b, decay 1, most pairs: test accuracy at the end, in [0, 1]",
        holds_if=Bound(low=0.9),
        value=at_end(condition_of(SUM, DECAY), largest=True),
    ),
    Claim(
        name="sharply",
        published="P2: sharply around the critical size ([Varma] section 5.2)",
        quantity="a+b, decay 1: size at which .9 of the accuracy is kept over that at which .1 is, by a logistic fit; "
        "the sizes tried span a factor of 8",
        holds_if=Bound(high=3.0),
        value=sharpness,
    ),
    Claim(
        name="decay_does_not_move_it",
        published=_P3,
        quantity="largest over smallest midpoint of three weight decays, .6, 1 and 1.8; at least 1. Where accuracy "
        "turns beyond the sizes tried the number is known from one side only, and is untested where that leaves it "
        "open",
        holds_if=SAME,
        value=spread_over_decays,
        chance=1.0,
    ),
    Claim(
        name="decay_does_not_change_the_accuracy",
        published=_P3,
        quantity=f"largest difference in test accuracy between the decays, at sizes more than {FAR:g} times off the "
        "midpoint; in [0, 1]",
        holds_if=Bound(high=0.2),
        value=accuracy_spread,
        chance=0.0,
    ),
    *(
        Claim(
            name=f"also_{label}",
            published="Ungrokking of other operations ([Varma] appendix)",
            quantity=f"{operation}: test accuracy with the most pairs less that with the fewest, in [-1, 1]; untested "
            f"where the net had not grokked (below {HAD_GROKKED:g})",
            holds_if=Bound(low=0.7),
            value=drop(condition_of(operation, DECAY)),
            chance=0.0,
        )
        for operation, label in OPERATIONS.items()
    ),
)


def accuracy_against_size(rows: pd.DataFrame) -> go.Figure:
    """Final test accuracy against the number of pairs, every net a point, with the fitted curves."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=["a+b, by weight decay", "by operation"])
    colours = dict(zip(CONDITIONS, LINE_COLOURS, strict=True))
    panels = [[condition_of(SUM, decay) for decay in DECAYS], [condition_of(SUM, DECAY), *CONDITIONS[len(DECAYS) :]]]
    for col, conditions in enumerate(panels, start=1):
        for condition in conditions:
            is_first = col == 1 or condition not in panels[0]
            place = {"row": 1, "col": col, "showlegend": is_first}
            add_points_and_curve(figure, rows, condition, colour=colours[condition], **place)
        figure.update_xaxes(title_text="training pairs D'", type="log", row=1, col=col)
    figure.update_yaxes(title_text="test accuracy at the end", range=[-0.03, 1.03], row=1, col=1)
    seeds = rows["seed"].nunique()
    title = wrapped(
        f"Grokked nets trained on with D' pairs: {seeds} seeds; midpoint with 95 % bootstrap interval; chance below .03"
    )
    figure.update_layout(title=title, width=1100, height=520, **LAYOUT)
    return figure


STUDY = Study(
    name="ungrokking",
    title="Ungrokking: how few pairs a grokked net may be trained on with",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"accuracy_against_size": accuracy_against_size},
)
