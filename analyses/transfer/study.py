"""Does a two-hop circuit take in new facts? Finetuning on facts the net never saw, with and without old items.

    circuit-lab reproduce transfer --scale small --seeds 3

Every start, the last checkpoint of each augmentation regime and a net trained on nothing, learns the same new facts,
once beside a closed choice of old items and once alone. Then new facts are asked together with old ones, on either hop
and on both; and old queries are asked again.
"""

from collections.abc import Callable
from math import nan

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.finetuning import (
    ACCURACY,
    BEFORE,
    BRIDGE_FOUND,
    CLOSED,
    HELD_OUT,
    HOP1,
    HOP2,
    KEPT,
    KEPT_NEW,
    NEW_KEPT,
    NEW_NEW,
    NEW_OTHER,
    NOTHING,
    OTHER,
    OTHER_NEW,
    UNTRAINED,
    finetuned_rows,
    finetuning,
    value_of,
)
from circuit_lab.tasks import AUGMENTATION_REGIMES

STARTS = (*AUGMENTATION_REGIMES, UNTRAINED)
PUBLISHED = {
    "natural": (1.0, 0.0, 0.0),
    "both_full": (1.0, 0.05, 0.02),
    "first_hop_full": (1.0, 0.0, 0.0),
    "second_hop_full": (0.35, 0.0, 0.0),
    UNTRAINED: (0.3, 0.0, 0.0),
}
"""[He] figure 5, read off the plot: accuracy on new + old, old + new, new + new. both_half, .2 to .75 on new + old, is
no single number."""
KINDS = (NEW_KEPT, KEPT_NEW, NEW_NEW, NEW_OTHER, OTHER_NEW)
"""Questions with a new fact: those of [He], then those with old facts that are not kept."""


def name_of(start: str, retention: str) -> str:
    """What a run is called in tables."""
    return f"{start}, {'old items kept' if retention == CLOSED else 'new facts alone'}"


def runs(seed: int) -> list[StudyRun]:
    """One run per start and retention."""
    return [finetuning(seed, start, retention) for start in STARTS for retention in (CLOSED, NOTHING)]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracies before and after, lens, hops and outcomes of every run."""
    return pd.concat(
        finetuned_rows(lab, finetuning(seed, start, retention), condition=name_of(start, retention))
        for start in STARTS
        for retention in (CLOSED, NOTHING)
    )


Place = tuple[str, str, str, str]
"""(start, retention, split, quantity)."""


def difference(first: Place, second: Place) -> Callable[[pd.DataFrame], float]:
    """Reads one share minus another."""
    return lambda rows: read(*first)(rows) - read(*second)(rows)


def read(start: str, retention: str, split: str, quantity: str) -> Callable[[pd.DataFrame], float]:
    """Reads one share."""
    return lambda rows: value_of(rows, name_of(start, retention), split, quantity)


def mediated(start: str, split: str) -> Callable[[pd.DataFrame], float]:
    """Reads the share of the right, testable answers that go through the bridge; nan where there are none."""

    def value(rows: pd.DataFrame) -> float:
        circuit, shortcut = (read(start, CLOSED, split, name)(rows) for name in ("circuit", "shortcut"))
        return circuit / (circuit + shortcut) if circuit + shortcut > 0 else nan

    return value


def after(start: str, split: str) -> Place:
    """Accuracy after finetuning with old items kept."""
    return start, CLOSED, split, ACCURACY


CLAIMS = (
    Claim(
        name="first_hop_transfers",
        published="new + old is 1.0 from the natural net and .3 without pretraining ([He] figure 5)",
        quantity="accuracy on new + kept old, old items kept: natural minus untrained; in [-1, 1]",
        holds_if=Bound(low=0.35),
        value=difference(after("natural", NEW_KEPT), after(UNTRAINED, NEW_KEPT)),
        chance=0.0,
    ),
    Claim(
        name="first_hop_goes_through_bridge",
        published="Every new + old query of the natural net is answered, and the lens finds its bridge ([He] figure 5)",
        quantity="natural, old items kept, new + kept old: share of the right answers that go through the bridge, in "
        "[0, 1]",
        holds_if=Bound(low=0.5),
        value=mediated("natural", NEW_KEPT),
        chance=0.0,
    ),
    Claim(
        name="first_hop_reaches_any_old_fact",
        published="new + old is 1.0 from the natural net ([He] figure 5), asked with kept old facts alone (released "
        "preprocess_training_data.ipynb)",
        quantity="natural, old items kept: accuracy on new + kept old minus that on new + other old; in [-1, 1]",
        holds_if=Bound(high=0.15),
        value=difference(after("natural", NEW_KEPT), after("natural", NEW_OTHER)),
        chance=0.0,
    ),
    Claim(
        name="old_new_fails",
        published="old + new is 0 from the natural net ([He] figure 5)",
        quantity="natural, old items kept: accuracy on kept old + new, in [0, 1]",
        holds_if=Bound(high=0.25),
        value=read(*after("natural", KEPT_NEW)),
        chance=0.07,
    ),
    Claim(
        name="new_new_fails",
        published="new + new is 0 from the natural net ([He] figure 5)",
        quantity="natural, old items kept: accuracy on new + new, in [0, 1]",
        holds_if=Bound(high=0.25),
        value=read(*after("natural", NEW_NEW)),
        chance=0.07,
    ),
    Claim(
        name="mature_circuit_is_limited",
        published="Even a mature circuit transfers to new knowledge in part only ([He] abstract, iii): from both_full, "
        "new + old is 1.0 and old + new .05 (figure 5)",
        quantity="both_full, old items kept: accuracy on new + kept old minus that on kept old + new; in [-1, 1]",
        holds_if=Bound(low=0.35),
        value=difference(after("both_full", NEW_KEPT), after("both_full", KEPT_NEW)),
        chance=0.0,
    ),
    Claim(
        name="fake_grokking_transfers_less",
        published="new + old is .35 from second_hop_full, which [He] calls fake grokking, and 1.0 from natural "
        "([He] figure 5)",
        quantity="accuracy on new + kept old, old items kept: natural minus second_hop_full; in [-1, 1]",
        holds_if=Bound(low=0.3),
        value=difference(after("natural", NEW_KEPT), after("second_hop_full", NEW_KEPT)),
        chance=0.0,
    ),
    Claim(
        name="bridge_found_and_no_answer",
        published="The lens finds the bridge of every old + new query of the natural net, none of which is answered "
        "([He] figure 5)",
        quantity="natural, old items kept, kept old + new: bridge_found minus accuracy; in [-1, 1]. In a causal net "
        "the lens's share is trivial",
        holds_if=Bound(low=0.5),
        value=difference(("natural", CLOSED, KEPT_NEW, BRIDGE_FOUND), after("natural", KEPT_NEW)),
        chance=0.0,
    ),
    Claim(
        name="retention_keeps",
        published="Old items are kept so that the old facts asked together with new ones stay known ([He], released "
        "preprocess_training_data.ipynb)",
        quantity="natural: accuracy on the kept old queries, finetuned with them minus without; in [-1, 1]",
        holds_if=Bound(low=0.2),
        value=difference(("natural", CLOSED, KEPT, ACCURACY), ("natural", NOTHING, KEPT, ACCURACY)),
        chance=0.0,
    ),
)


def bars(
    rows: pd.DataFrame, quantities: dict[str, tuple[str, str]], retention: str, title: str, *, shown: dict[str, float]
) -> go.Figure:
    """A panel per start: mean over seeds as bars, each seed as a point, and what was published as a line."""
    n_seeds = rows["seed"].nunique()
    figure = make_subplots(rows=len(STARTS), cols=1, shared_xaxes=True, subplot_titles=STARTS, vertical_spacing=0.05)
    for place, start in enumerate(STARTS, start=1):
        for (label, (split, quantity)), colour in zip(quantities.items(), (*LINE_COLOURS, "#000000"), strict=False):
            of_start = rows[rows["condition"] == name_of(start, retention)]
            found = of_start[(of_start["split"] == split) & (of_start["quantity"] == quantity)]
            n = "" if found.empty else f"{round(found['n'].mean())} queries a seed"
            figure.add_bar(
                x=[label], y=[found["value"].mean()], marker_color=colour, hovertext=n, row=place, col=1,
                showlegend=False,
            )  # fmt: skip
            figure.add_scatter(
                x=[label] * len(found), y=found["value"], mode="markers", row=place, col=1, showlegend=False,
                marker={"color": "white", "size": 7, "line": {"color": "black", "width": 1.2}},
                hovertext=[f"seed {seed}" for seed in found["seed"]],
            )  # fmt: skip
            if f"{start}/{label}" in shown:
                figure.add_scatter(
                    x=[label], y=[shown[f"{start}/{label}"]], mode="markers", row=place, col=1,
                    name="[He] figure 5", showlegend=place == 1 and label == next(iter(quantities)),
                    marker={"symbol": "line-ew", "size": 34, "line": {"color": "#D55E00", "width": 3}},
                )  # fmt: skip
        figure.update_yaxes(title_text="share", range=[-0.05, 1.08], row=place, col=1)
    figure.update_layout(
        title=wrapped(f"{title}: mean of {n_seeds} seeds (bars) and each seed (points)"), width=1000,
        height=190 * len(STARTS) + 130, **LAYOUT,
    )  # fmt: skip
    return figure


def transferred(rows: pd.DataFrame) -> go.Figure:
    """Accuracy by kind of question, beside the published one."""
    published = {
        f"{start}/{kind}": value
        for start, values in PUBLISHED.items()
        for kind, value in zip(KINDS, values, strict=False)
    }
    quantities = {kind: (kind, ACCURACY) for kind in KINDS}
    title = "Accuracy on questions with a new fact, old items kept; chance is below .1"
    return bars(rows, quantities, CLOSED, title, shown=published)


def hops(rows: pd.DataFrame) -> go.Figure:
    """Which hop of a question with a new fact works."""
    named = {
        f"{kind}<br>{quantity}": (kind, quantity)
        for kind in (NEW_OTHER, OTHER_NEW)
        for quantity in (BRIDGE_FOUND, HOP1, HOP2)
    }
    return bars(rows, named, CLOSED, "Lens and hop transplants, old items kept", shown={})


def forgetting(rows: pd.DataFrame) -> go.Figure:
    """Old queries before and after the new facts are learnt alone."""
    return _old_queries(rows, NOTHING, "Accuracy on old queries before and after the new facts are learnt alone")


def retention(rows: pd.DataFrame) -> go.Figure:
    """Old queries before and after the new facts are learnt beside old items."""
    return _old_queries(rows, CLOSED, "Accuracy on old queries before and after, old items kept")


def _old_queries(rows: pd.DataFrame, kept: str, title: str) -> go.Figure:
    named = {
        f"{split}<br>{when}": (split, quantity)
        for split in (KEPT, OTHER, HELD_OUT)
        for when, quantity in (("before", BEFORE), ("after", ACCURACY))
    }
    return bars(rows, named, kept, title, shown={})


STUDY = Study(
    name="transfer",
    title="Transfer to new facts: which hop takes them in, and what is forgotten",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"transferred": transferred, "hops": hops, "forgetting": forgetting, "retention": retention},
)
