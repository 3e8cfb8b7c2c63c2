"""Without shared weights: do standard transformers compose unseen facts, and do they read what they state?

    circuit-lab reproduce no_sharing --scale small --seeds 3

Nets of four layers that share all blocks, two blocks, or none are trained alike, with and without augmentation. Beside
their accuracies stands the test of the reason given for a failure, representational mismatch: the last state of an
atomic answer is put where the net reads an entity, as the bridge at r1's position, or as the input at h's.
"""

from collections.abc import Callable
from math import inf, nan

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab import load_checkpoint
from circuit_lab.measures import known_good
from circuit_lab.measures.two_hop.representation_mismatch import PlaceOfEntity, representation_mismatch
from circuit_lab.nets import HookedNet, shared_transformer
from circuit_lab.report.figures.style import GREY, LAYOUT, LINE_COLOURS
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun, find_study
from circuit_lab.studies.study import COLUMNS
from circuit_lab.studies.timeline import ACCURACY, accuracy_rows
from circuit_lab.tasks import Queries, TwoHopTask
from circuit_lab.verdict.thresholds import THRESHOLDS

CONDITIONS = (
    "universal/both_full",
    "shared/both_full",
    "standard/both_full",
    "universal/second_hop_full",
    "standard/second_hop_full",
    "universal/natural",
    "standard/natural",
)
"""Runs: `<net>/<regime>`. Those of the universal net are those of the study `augmentation_regimes`."""
STEPS = {
    "shared/both_full": 0.6,
    "standard/both_full": 0.6,
    "standard/second_hop_full": 1.0,
    "standard/natural": 1.0,
}
"""Of the other runs, as a multiple of the base recipe's."""
SPLITS = ("test_id", "test_ood")
TRAINING = "train_inferred"
COLOURS = (*LINE_COLOURS, "black")
THROUGH_BRIDGE, FOLLOWS = "right answers through the bridge", "answers that follow"
CEILING, LATE, LATER, SHIFTED = "own form", "late state", "written later", "shifted"
STATES = (CEILING, LATE, SHIFTED, LATER, "mapped", "rotated", "mapped, new entity", "mismatched map", "another entity")
READABLE = 0.2
"""Share of answers that follow the net's own form from which the place is one where an entity is read; chance is
below .1."""


def run_of(condition: str, seed: int) -> StudyRun:
    """The run of a condition."""
    net, regime = condition.split("/")
    if net == "universal":
        return next(run for run in find_study("augmentation_regimes").runs(seed) if run.name == condition)
    return StudyRun(net, condition, seed, {"task.regime": regime}, steps=STEPS[condition])


def runs(seed: int) -> list[StudyRun]:
    """One run per condition."""
    return [run_of(condition, seed) for condition in CONDITIONS]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracies in every run; of its last checkpoint what goes through the bridge, and the two transplants."""
    parts = []
    for condition in CONDITIONS:
        run = run_of(condition, seed)
        path = lab.last(run)
        checkpoint = load_checkpoint(path)
        assert isinstance(checkpoint.task, TwoHopTask), "every run of the study has a two-hop task"
        net = shared_transformer(checkpoint.net, place=str(path)).eval()
        through = [
            {"split": row.split, "quantity": THROUGH_BRIDGE}
            | {"value": row.value, "n": row.n, "low": row.low, "high": row.high}
            for row in lab.diagnose(path).evidence
            if row.name == THROUGH_BRIDGE and row.split in SPLITS
        ]
        at_end = pd.concat([pd.DataFrame(through), *mismatch_rows(net, checkpoint.task, seed)])
        learning = accuracy_rows(lab, run, condition=condition, splits=(TRAINING, *SPLITS))
        parts.append(learning.assign(chance=learning["split"].map(checkpoint.task.chance)))
        parts.append(at_end.assign(condition=condition, step=lab.step(path)))
    numbers = dict.fromkeys(("value", "low", "high", "chance"), float)
    text = dict.fromkeys(("split", "place", "position", "stage", "state"), "")
    table = pd.concat(parts, ignore_index=True)
    return table.reindex(columns=[*COLUMNS, "chance", *list(text)[1:]]).fillna(text).astype(numbers)


def mismatch_rows(net: HookedNet, task: TwoHopTask, seed: int) -> list[pd.DataFrame]:
    """The transplants at both places; none for a net that has not learnt enough to be asked."""
    facts = known_good(net, task.splits["atomic_id"])
    queries: dict[PlaceOfEntity, Queries] = {
        "bridge": known_good(net, task.splits["train_inferred"]),
        "input": facts,
    }
    tables = []
    for place, asked in queries.items():
        try:
            found = representation_mismatch(net, asked, facts, task.splits["atomic_id"], place=place, seed=seed)
        except ValueError:  # no pair of queries that the net answers right
            continue
        tables.append(found.frame().rename(columns={"share": "value"}).assign(quantity=FOLLOWS))
    return tables


def accuracy(rows: pd.DataFrame, condition: str, *, until: float = inf) -> float:
    """Last accuracy on test_ood, up to a step; nan of a net that has not learnt its training queries by then."""
    chosen = rows[(rows["condition"] == condition) & (rows["quantity"] == ACCURACY) & (rows["step"] <= until)]
    last = chosen[chosen["step"] == chosen["step"].max()].set_index("split")["value"]
    return float(last["test_ood"]) if last[TRAINING] >= THRESHOLDS.training_learnt else nan


def advantage(regime: str) -> Callable[[pd.DataFrame], float]:
    """Reads by how much sharing all blocks helps on test_ood, at the step at which the shorter of two runs ends."""

    def read(rows: pd.DataFrame) -> float:
        both = [f"universal/{regime}", f"standard/{regime}"]
        until = min(float(rows["step"][rows["condition"] == condition].max()) for condition in both)
        shared, standard = (accuracy(rows, condition, until=until) for condition in both)
        return shared - standard

    return read


def reads(condition: str, place: str, state: str) -> Callable[[pd.DataFrame], float]:
    """Reads how many answers follow a state, as a share of those that follow the own form, where that is best read."""

    def read(rows: pd.DataFrame) -> float:
        chosen = (rows["condition"] == condition) & (rows["quantity"] == FOLLOWS) & (rows["place"] == place)
        table = rows[chosen].pivot_table(index="stage", columns="state", values="value")
        if table.empty or table[CEILING].max() < READABLE:
            return nan
        best = table.loc[table[CEILING].idxmax()]
        return float(best[state] / best[CEILING])

    return read


def _accuracy_claims() -> tuple[Claim, ...]:
    """Whether sharing decides about unseen compositions."""
    general = "Standard transformers are unable to generalise to compositional reasoning ([He] figure 1; [Wang])"
    claims = [
        Claim(
            name="standard_fails_on_ood",
            published=f"{general}, without augmentation",
            quantity="test_ood accuracy of standard/natural at the end, in [0, 1]",
            holds_if=Bound(high=0.2),
            value=lambda rows: accuracy(rows, "standard/natural"),
            chance=0.05,
        )
    ]
    for regime in ("natural", "second_hop_full", "both_full"):
        claims.append(
            Claim(
                name=f"sharing_helps_{regime}",
                published=f"{general}; parameter-sharing ones can",
                quantity=f"test_ood accuracy of universal/{regime} less that of standard/{regime}, when the shorter of "
                "the two runs ends; in [-1, 1]",
                holds_if=Bound(low=0.1),
                value=advantage(regime),
                chance=0.0,
            )
        )
    return tuple(claims)


def _mismatch_claims() -> tuple[Claim, ...]:
    """Whether the late form of an entity is read; the share of answers that follow it, relative to the own form."""
    mismatch = "Independent layers have a representational mismatch ([He] figure 1, left)"
    shared = "Sharing mitigates it: shallow parameters serve the second hop ([He] figure 1, right)"
    asked = (
        ("input", LATE, "the late state of an atomic answer as the entity at h"),
        ("bridge", LATER, "what the layers after the stage wrote of an atomic answer as the bridge at r1"),
        ("bridge", LATE, "the late state of an atomic answer as the bridge at r1"),
    )
    claims = []
    for place, state, words in asked:
        name = "late_state" if state == LATE else "written_later"
        for condition in ("universal/both_full", "universal/natural", "standard/both_full", "standard/natural"):
            standard = condition.startswith("standard")
            if not standard and (place, state) == ("bridge", LATE):
                continue  # a late state still carries the early one: this is asked of standard nets as a contrast
            claims.append(
                Claim(
                    name=f"{condition.replace('/', '_')}_{'fails_to_read' if standard else 'reads'}_{name}_as_{place}",
                    published=mismatch if standard else shared,
                    quantity=f"{condition}: answers that follow {words}, as a share of those that follow the net's "
                    "own form there, at the stage where it is best read; >= 0, about 1 = as good",
                    holds_if=Bound(high=0.5) if standard else Bound(low=0.5),
                    value=reads(condition, place, state),
                )
            )
    return tuple(claims)


def accuracies(rows: pd.DataFrame) -> go.Figure:
    """Lines: accuracy on test_id and test_ood in the course of every run, each seed."""
    figure = make_subplots(rows=1, cols=len(SPLITS), subplot_titles=SPLITS, shared_yaxes=True)
    of_kind = rows[rows["quantity"] == ACCURACY]
    for col, split in enumerate(SPLITS, start=1):
        for colour, condition in zip(COLOURS, CONDITIONS, strict=True):
            chosen = of_kind[(of_kind["split"] == split) & (of_kind["condition"] == condition)]
            for number, (seed, of_seed) in enumerate(chosen.groupby("seed")):
                figure.add_scatter(
                    x=of_seed["step"],
                    y=of_seed["value"],
                    mode="lines",
                    line={"color": colour, "width": 1.5, "dash": "solid" if "/both" in condition else "dash"},
                    customdata=of_seed[["n", "low", "high"]],
                    hovertemplate="%{y:.3f}, 95 % %{customdata[1]:.3f} to %{customdata[2]:.3f}, n = %{customdata[0]}"
                    f"<extra>{condition}, seed {seed}</extra>",
                    name=condition,
                    legendgroup=condition,
                    showlegend=col == 1 and number == 0,
                    row=1,
                    col=col,
                )
        chance = float(of_kind["chance"][of_kind["split"] == split].max())
        figure.add_hline(y=chance, line_dash="dot", line_color=GREY, row=1, col=col)  # type: ignore[arg-type]
        figure.update_xaxes(title="optimiser steps", row=1, col=col)
    figure.update_yaxes(title="accuracy (share)", range=[-0.02, 1.03])
    title = f"Accuracy on unseen queries, {rows['seed'].nunique()} seeds; dotted: highest chance of any seed"
    figure.update_layout(title=title, height=460, width=1100, **LAYOUT)
    return figure


def mismatch(rows: pd.DataFrame) -> go.Figure:
    """Bars: share of answers that follow each kind of state, as bridge (where best read) and as input."""
    figure = make_subplots(rows=2, cols=1, subplot_titles=["put in as the bridge, at r1", "put in as the input, at h"])
    chosen = rows[rows["quantity"] == FOLLOWS]
    for row, place in enumerate(("bridge", "input"), start=1):
        of_place = best_stages(chosen[chosen["place"] == place])
        for colour, condition in zip(COLOURS, CONDITIONS, strict=True):
            shown = of_place[of_place["condition"] == condition].groupby("state")[["value", "n"]].mean()
            shown = shown.reindex([state for state in STATES if state in set(of_place["state"])])
            figure.add_bar(
                x=shown.index,
                y=shown["value"],
                name=condition,
                legendgroup=condition,
                showlegend=row == 1,
                marker_color=colour,
                customdata=shown["n"],
                hovertemplate="%{x}: %{y:.3f}, n = %{customdata:.0f} pairs a seed<extra>" + condition + "</extra>",
                row=row,
                col=1,
            )
        if not of_place.empty:
            figure.add_hline(y=float(of_place["chance"].max()), line_dash="dot", line_color=GREY, row=row, col=1)
        figure.update_yaxes(title="share of answers that follow", range=[0, 1.03], row=row, col=1)
    figure.update_layout(
        title=f"What is read of an entity's late form: mean of {rows['seed'].nunique()} seeds; dotted: highest chance",
        barmode="group",
        height=760,
        width=1100,
        **LAYOUT,
    )
    return figure


def best_stages(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at the stage where each run's own form is best read."""
    own = rows[rows["state"] == CEILING]
    if own.empty:
        return rows
    best = own.loc[own.groupby(["condition", "seed"])["value"].idxmax(), ["condition", "seed", "stage"]]
    return rows.merge(best, on=["condition", "seed", "stage"])


STUDY = Study(
    name="no_sharing",
    title="Standard transformers on two-hop queries, and representational mismatch",
    claims=(*_accuracy_claims(), *_mismatch_claims()),
    runs=runs,
    measure=measure,
    figures={"accuracies": accuracies, "mismatch": mismatch},
)
