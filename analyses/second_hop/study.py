"""Why does the second hop take in new facts less than the first?

    circuit-lab reproduce second_hop --scale small --seeds 3

The nets of the study `transfer` that start from a natural and from an augmented checkpoint are asked which hop fails;
beside them stand nets of which only one part was finetuned, and nets that learnt the new mappings from a bridge and a
relation to an answer alone. If facts were stored where only one hop reads them, finetuning another part would help; if
old items were in the way, leaving them out would.
"""

from collections.abc import Callable
from dataclasses import replace
from math import isnan, nan

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.finetuning import (
    ACCURACY,
    CLOSED,
    HOP1,
    HOP2,
    KEPT_NEW,
    NEW_FACTS,
    NEW_KEPT,
    NEW_OTHER,
    NOTHING,
    OTHER_NEW,
    finetuned_rows,
    finetuning,
    value_of,
)

STARTS = ("natural", "both_full")
PARTS = ("attention", "mlp", "embedding")
EVERYTHING, ALONE = "everything", "everything, new facts alone"
TRAINED = (EVERYTHING, *PARTS, ALONE)
WRONG = ("second_hop_failure", "first_hop_failure", "composition_failure", "no_circuit")
"""Outcomes of a query that is answered wrong and can be tested."""


def run_of(seed: int, start: str, trained: str) -> StudyRun:
    """The run of a start of which a part is finetuned."""
    if trained == ALONE:
        return finetuning(seed, start, NOTHING)
    run = finetuning(seed, start, CLOSED)
    if trained == EVERYTHING:
        return run
    return replace(run, name=f"second_hop/{start}/{trained}", settings={**run.settings, "optimizer.only": [trained]})


def runs(seed: int) -> list[StudyRun]:
    """One run per start and part."""
    return [run_of(seed, start, trained) for start in STARTS for trained in TRAINED]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracies, hops and outcomes of every run."""
    return pd.concat(
        finetuned_rows(lab, run_of(seed, start, trained), condition=f"{start}: {trained}")
        for start in STARTS
        for trained in TRAINED
    )


def read(start: str, trained: str, split: str, quantity: str) -> Callable[[pd.DataFrame], float]:
    """Reads one share."""
    return lambda rows: value_of(rows, f"{start}: {trained}", split, quantity)


def share_of_wrong(start: str, split: str, outcome: str) -> Callable[[pd.DataFrame], float]:
    """Reads the share of the wrong, testable answers that have an outcome; nan where there are none."""

    def value(rows: pd.DataFrame) -> float:
        shares = {name: read(start, EVERYTHING, split, name)(rows) for name in WRONG}
        return shares[outcome] / sum(shares.values()) if sum(shares.values()) > 0 else nan

    return value


def hop_difference(start: str) -> Callable[[pd.DataFrame], float]:
    """Reads how much better a new fact does as hop 1 than as hop 2."""

    def value(rows: pd.DataFrame) -> float:
        as_first, as_second = read(start, EVERYTHING, NEW_OTHER, HOP1), read(start, EVERYTHING, OTHER_NEW, HOP2)
        return as_first(rows) - as_second(rows)

    return value


def best_part(start: str) -> Callable[[pd.DataFrame], float]:
    """Reads the gain in old + new accuracy of the best part alone over finetuning everything."""

    def value(rows: pd.DataFrame) -> float:
        of_parts = [read(start, part, KEPT_NEW, ACCURACY)(rows) for part in PARTS]
        learnt = [accuracy for accuracy in of_parts if not isnan(accuracy)]
        return max(learnt, default=nan) - read(start, EVERYTHING, KEPT_NEW, ACCURACY)(rows)

    return value


FAILS = "old + new is 0 from the natural net and .05 from both_full, although the lens finds the bridge of every query"

CLAIMS = (
    Claim(
        name="first_hop_hands_on",
        published=f"{FAILS} ([He] figure 5): the first hop works",
        quantity="natural, kept old + new: share of queries whose hop-1 transplants work, in [0, 1]",
        holds_if=Bound(low=0.5),
        value=read("natural", EVERYTHING, KEPT_NEW, HOP1),
        chance=0.0,
    ),
    Claim(
        name="second_hop_fails",
        published=f"{FAILS} ([He] figure 5): the second hop fails",
        quantity="natural, kept old + new: share of the wrong answers that the transplants call a second-hop "
        "failure, in [0, 1]",
        holds_if=Bound(low=0.5),
        value=share_of_wrong("natural", KEPT_NEW, "second_hop_failure"),
        chance=0.0,
    ),
    Claim(
        name="second_hop_transfers_less",
        published="From the natural net a new fact answers as hop 1 (1.0) and not as hop 2 (0) ([He] figure 5)",
        quantity="natural: share of new + other old queries whose hop 1 works minus share of other old + new "
        "queries whose hop 2 works; in [-1, 1]",
        holds_if=Bound(low=0.1),
        value=hop_difference("natural"),
        chance=0.0,
    ),
    Claim(
        name="augmented_second_hop_transfers_less",
        published="From both_full a new fact answers as hop 1 (1.0) and hardly as hop 2 (.05) ([He] figure 5)",
        quantity="both_full: share of new + other old queries whose hop 1 works minus share of other old + new "
        "queries whose hop 2 works; in [-1, 1]",
        holds_if=Bound(low=0.1),
        value=hop_difference("both_full"),
        chance=0.0,
    ),
    Claim(
        name="mappings_alone_do_not_help",
        published="Even a mature circuit transfers to new knowledge in part only ([He] abstract, iii)",
        quantity="both_full: accuracy on kept old + new after learning the mappings from bridge to answer alone, "
        "minus that with old items kept; in [-1, 1]",
        holds_if=Bound(high=0.2),
        value=lambda rows: (
            read("both_full", ALONE, KEPT_NEW, ACCURACY)(rows) - read("both_full", EVERYTHING, KEPT_NEW, ACCURACY)(rows)
        ),
        chance=0.0,
    ),
    Claim(
        name="no_part_alone_helps",
        published="Even a mature circuit transfers to new knowledge in part only ([He] abstract, iii)",
        quantity="both_full: accuracy on kept old + new, the best of attention, MLP and embeddings finetuned alone "
        "that learnt the new facts, minus everything finetuned; in [-1, 1]",
        holds_if=Bound(high=0.2),
        value=best_part("both_full"),
        chance=0.0,
    ),
)

LINES = {
    "new facts<br>accuracy": (NEW_FACTS, ACCURACY),
    "new + kept old<br>accuracy": (NEW_KEPT, ACCURACY),
    "kept old + new<br>accuracy": (KEPT_NEW, ACCURACY),
    "new + other old<br>hop 1": (NEW_OTHER, HOP1),
    "other old + new<br>hop 1": (OTHER_NEW, HOP1),
    "other old + new<br>hop 2": (OTHER_NEW, HOP2),
}
"""What the figure shows of each condition."""


def parts(rows: pd.DataFrame) -> go.Figure:
    """Which part was finetuned, and how new facts do as hop 1 and as hop 2."""
    n_seeds = rows["seed"].nunique()
    figure = make_subplots(rows=len(STARTS), cols=1, shared_xaxes=True, subplot_titles=STARTS, vertical_spacing=0.1)
    for place, start in enumerate(STARTS, start=1):
        for trained, colour in zip(TRAINED, LINE_COLOURS, strict=False):
            of_run = rows[rows["condition"] == f"{start}: {trained}"]
            by_seed = {
                label: of_run[(of_run["split"] == split) & (of_run["quantity"] == quantity)]["value"]
                for label, (split, quantity) in LINES.items()
            }
            figure.add_bar(
                x=list(by_seed), y=[values.mean() for values in by_seed.values()], name=trained, marker_color=colour,
                error_y={
                    "type": "data", "symmetric": False,
                    "array": [values.max() - values.mean() for values in by_seed.values()],
                    "arrayminus": [values.mean() - values.min() for values in by_seed.values()],
                },
                legendgroup=trained, showlegend=place == 1, row=place, col=1,
            )  # fmt: skip
        figure.update_yaxes(title_text="share", range=[-0.05, 1.08], row=place, col=1)
    title = f"New facts by what was finetuned: mean of {n_seeds} seeds, lines from the lowest to the highest"
    figure.update_layout(title=title, height=800, width=1100, barmode="group", **LAYOUT)
    return figure


def failures(rows: pd.DataFrame) -> go.Figure:
    """Outcomes of the queries with a new fact as second hop and a kept one as first."""
    conditions = [f"{start}: {trained}" for start in STARTS for trained in TRAINED]
    figure = go.Figure()
    for outcome, colour in zip(("circuit", "shortcut", *WRONG), LINE_COLOURS, strict=True):
        chosen = rows[(rows["split"] == KEPT_NEW) & (rows["quantity"] == outcome)]
        means = chosen.groupby("condition")["value"].mean().reindex(conditions)
        figure.add_bar(y=conditions, x=means, name=outcome, marker_color=colour, orientation="h")
    n = rows[(rows["split"] == KEPT_NEW) & (rows["quantity"] == ACCURACY)].groupby("condition")["n"].sum().max()
    title = (
        f"Outcomes of kept old + new queries, {n} in {rows['seed'].nunique()} seeds; what is missing to 1 is untestable"
    )
    figure.update_xaxes(title_text="share of queries", range=[0, 1])
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(title=title, barmode="stack", height=520, width=1100, **LAYOUT)
    return figure


STUDY = Study(
    name="second_hop",
    title="Why the second hop takes in new facts less than the first",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"parts": parts, "failures": failures},
)
