"""One grokking run, checkpoint by checkpoint: how logit and norm pass from the memorising part to the generalising one.

    circuit-lab reproduce one_run --scale small --seeds 3

`diagnose_run` reads the run: the logits' two parts, the norm, and the phases.
"""

from collections.abc import Callable
from itertools import pairwise
from math import isnan, nan

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab import load_checkpoint
from circuit_lab.measures import weight_norms
from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.circuit_efficiency import COMPONENTS, scratch
from circuit_lab.studies.figures import add_mean_and_seeds
from circuit_lab.studies.timeline import first_step, series
from circuit_lab.verdict.runs.quantities import EXCHANGE, GENERALISING, HELD_OUT, NORM, REMAINING, TRAINING

CONDITION, SPLIT = "a+b, decay 1", "as the diagnosis reads it"
SHARE = 0.4
"""Of the pairs; nets grok late with it."""
PHASES = ("memorisation", "circuit_formation", "clean_up")
STARTS, ENDS = "starts", "ends"
HALF = 0.5


def runs(seed: int) -> list[StudyRun]:
    """One run."""
    return [scratch(seed, share=SHARE)]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """The timeline, the norm of each component, and the first and last step of each phase."""
    (run,) = runs(seed)
    diagnosis = lab.diagnose_run(run)
    rows = [
        {"step": point.step, "quantity": point.quantity, "value": point.value, "n": point.n}
        | {"low": point.low, "high": point.high}
        for point in diagnosis.timeline
    ]
    for path in lab.checkpoints(run):
        components = weight_norms(load_checkpoint(path).net).components
        rows += [
            {"step": lab.step(path), "quantity": f"{NORM}, {name}", "value": components[name], "n": 1}
            for name in COMPONENTS
        ]
    for name in PHASES:
        phase = getattr(diagnosis.phases, name)
        if phase is not None:
            rows += [
                {"step": step, "quantity": f"{name} {word}", "value": float(step), "n": 1}
                for word, step in ((STARTS, phase.start), (ENDS, phase.end))
            ]
    table = pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))
    return table.assign(condition=CONDITION, split=SPLIT)


def line(rows: pd.DataFrame, quantity: str) -> pd.Series:
    """A quantity by step, in order."""
    points = series(rows, CONDITION, quantity, SPLIT)
    return pd.Series(points["value"].to_numpy(), index=points["step"].to_numpy(), dtype=float).dropna()


def step_of_exchange(rows: pd.DataFrame) -> float:
    """The first step from which on the generalising part has the larger correct logit to the end; nan if none."""
    difference = line(rows, EXCHANGE)
    behind = difference.index[difference <= 0]
    after = difference.index[difference.index > behind.max()] if len(behind) else difference.index
    return float(after.min()) if len(after) else nan


def step_of_half(rows: pd.DataFrame) -> float:
    """The first step at which half of the held-out pairs are answered right; nan if there is none."""
    return first_step(rows, CONDITION, HELD_OUT, SPLIT, level=HALF)


def exchange_after_peak(rows: pd.DataFrame) -> float:
    """Reads the step of the exchange over that at which the memorised logit is largest."""
    remaining = line(rows, REMAINING)
    return step_of_exchange(rows) / float(remaining.idxmax()) if len(remaining) else nan


def generalising_share(rows: pd.DataFrame) -> float:
    """Reads the generalising part's share of the correct logit on training pairs at the end."""
    generalising, remaining = line(rows, GENERALISING), line(rows, REMAINING)
    if not (len(generalising) and len(remaining)):
        return nan
    return float(generalising.iloc[-1] / (generalising.iloc[-1] + remaining.iloc[-1]))


def with_the_exchange(rows: pd.DataFrame) -> float:
    """Reads the step at which held-out accuracy is half over that of the exchange."""
    return step_of_half(rows) / step_of_exchange(rows)


def norm_kept(rows: pd.DataFrame) -> float:
    """Reads the norm at the end over its largest."""
    norm = line(rows, NORM)
    return float(norm.iloc[-1] / norm.max()) if len(norm) else nan


def phases_in_order(rows: pd.DataFrame) -> float:
    """Reads how many of the three phases were seen, 0 if they do not follow on one another."""
    starts = [line(rows, f"{name} {STARTS}") for name in PHASES]
    seen = [float(start.iloc[0]) for start in starts if len(start)]
    return float(len(seen)) if all(a <= b for a, b in pairwise(seen)) else 0.0


def needs_generalising(read: Callable[[pd.DataFrame], float]) -> Callable[[pd.DataFrame], float]:
    """The reading of a run that grokked; nan of one that did not."""
    return lambda rows: nan if isnan(step_of_half(rows)) else read(rows)


_EXCHANGE = (
    "Weight decay moves the logit from the memorising to the more efficient generalising circuit ([Varma] section 3)"
)
CLAIMS = (
    Claim(
        name="memory_comes_first",
        published=_EXCHANGE,
        quantity="step from which on the generalising part has the larger correct logit, over the step at which the "
        "memorised part is largest; ratio, > 0",
        holds_if=Bound(low=1.5),
        value=needs_generalising(exchange_after_peak),
        chance=1.0,
    ),
    Claim(
        name="the_logit_changes_hands",
        published=_EXCHANGE,
        quantity="share of the generalising part in the correct logit of training pairs at the end, in [0, 1]",
        holds_if=Bound(low=0.9),
        value=needs_generalising(generalising_share),
    ),
    Claim(
        name="accuracy_rises_with_the_exchange",
        published=_EXCHANGE,
        quantity="step at which half of the held-out pairs are right, over that of the exchange; ratio, > 0",
        holds_if=Bound(0.67, 1.5),
        value=needs_generalising(with_the_exchange),
        chance=1.0,
    ),
    Claim(
        name="the_norm_falls",
        published="The generalising circuit reaches the same loss with less norm ([Varma] section 3)",
        quantity="norm of all weights at the end over its largest, in [0, 1]",
        holds_if=Bound(high=0.8),
        value=needs_generalising(norm_kept),
        chance=1.0,
    ),
    Claim(
        name="three_phases",
        published="Memorisation, circuit formation, clean-up, in this order ([Nanda] section 5)",
        quantity="phases that are seen, 0 to 3; 0 if they do not start one after the other",
        holds_if=Bound(low=3.0),
        value=needs_generalising(phases_in_order),
    ),
)
PANELS = (
    ("accuracy (share)", ((TRAINING, "training pairs"), (HELD_OUT, "held-out pairs"))),
    ("correct logit", ((GENERALISING, "generalising part"), (REMAINING, "memorised part"))),
    ("norm", ((NORM, "all weights"), *((f"{NORM}, {name}", name) for name in COMPONENTS))),
)


def exchange(rows: pd.DataFrame) -> go.Figure:
    """Accuracies, logits of both parts and norms against steps; the phases of the first seed shaded."""
    figure = make_subplots(rows=len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for row, (title, quantities) in enumerate(PANELS, start=1):
        for colour, (quantity, name) in zip(LINE_COLOURS, quantities, strict=False):
            style = {"name": name, "legendgroup": f"{row} {name}", "row": row, "col": 1}
            points = series(rows, CONDITION, quantity, SPLIT)
            add_mean_and_seeds(figure, points, colour=colour, showlegend=True, **style)
        figure.update_yaxes(title_text=title, rangemode="tozero", row=row, col=1)
    first = pd.DataFrame(rows[rows["seed"] == rows["seed"].min()])
    for shade, name in zip(("rgba(0,0,0,.04)", "rgba(0,0,0,.10)", "rgba(0,0,0,.04)"), PHASES, strict=True):
        start, end = line(first, f"{name} {STARTS}"), line(first, f"{name} {ENDS}")
        if len(start) and len(end):
            words = {"text": name.replace("_", " "), "font": {"size": 11}, "textangle": -90}
            figure.add_vrect(start.iloc[0], end.iloc[0], fillcolor=shade, line_width=0, label=words, row=1, col=1)  # type: ignore[arg-type]
    figure.update_xaxes(title_text="optimiser steps", row=len(PANELS), col=1)
    title = wrapped(
        f"One grokking run: mean of {rows['seed'].nunique()} seeds (bold) and each; phases of the first seed"
    )
    figure.update_layout(title=title, width=1000, height=820, **LAYOUT)
    return figure


STUDY = Study(
    name="one_run",
    title="One grokking run: logit and norm change hands",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"exchange": exchange},
)
