"""Which verdict a two-hop net gets, by how many unseen facts are shown as hop 1 and as hop 2, and how soon.

    circuit-lab reproduce phase_diagram --scale small --seeds 3

A grid of both augmentation ratios, for nets that share one block and for nets that share none.
"""

from collections import Counter
from collections.abc import Callable
from math import nan

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from scipy.stats import spearmanr

from circuit_lab.measures import predicted_answers, proportion_interval
from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, SHARE_SCALE, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun, find_study
from circuit_lab.studies.timeline import (
    ACCURACY,
    TEST_ID,
    TEST_OOD,
    accuracy_rows,
    first_step,
    last_value,
    series,
)
from circuit_lab.tasks import NO_FACT
from circuit_lab.training import Checkpoint, load_checkpoint
from circuit_lab.verdict.verdicts import Verdict

ARCHITECTURES = {"universal": "one block, four times", "standard": "four blocks"}
"""Base recipe -> what the net is."""
RATIOS = (0.0, 0.25, 0.5, 1.0)
"""Shares of the OOD facts of test_ood that get training queries on a hop."""
SAMPLES = 18
"""Queries of each of these facts, as in [He]'s full regimes, which are the grid's corners."""
REGIMES = {(0.0, 0.0): "natural", (1.0, 1.0): "both_full", (1.0, 0.0): "first_hop_full", (0.0, 1.0): "second_hop_full"}
STEPS = 0.6
"""Length of the runs, as a multiple of the recipe's: 12,000 steps at small scale. Runs of other studies are longer; all
are looked at after the last step that all have a checkpoint of."""
THERE = 0.5
"""test_ood accuracy whose first step is the onset."""
SHOWN = ("neither fact", "the hop-1 fact alone", "the hop-2 fact alone", "both facts")
"""Which of a test_ood query's own two facts training queries compose, the hop-2 fact as the second bit."""
CELLS = [(net, hop1, hop2) for net in ARCHITECTURES for hop1 in RATIOS for hop2 in RATIOS]


def run_of(net: str, hop1: float, hop2: float, seed: int) -> StudyRun:
    """The run of a cell; one of another study where there is one."""
    regime = REGIMES.get((hop1, hop2))
    if regime is not None:
        known = [*find_study("augmentation_regimes").runs(seed), *find_study("no_sharing").runs(seed)]
        same = [run for run in known if run.name == f"{net}/{regime}"]
        return same[0] if same else StudyRun(net, f"{net}/{regime}", seed, {"task.regime": regime}, steps=STEPS)
    hops = {
        f"hop{number}": {"ratio": ratio, "samples_per_fact": SAMPLES if ratio else 0}
        for number, ratio in ((1, hop1), (2, hop2))
    }
    settings = {"task.regime": None, "task.augmentation": hops}
    return StudyRun(net, f"{net}/augmented/hop1={hop1:g}/hop2={hop2:g}", seed, settings, steps=STEPS)


def name_of(net: str, hop1: float, hop2: float) -> str:
    """What the nets of a cell are called."""
    return f"{net}, hop 1 {hop1:g}, hop 2 {hop2:g}"


def runs(seed: int) -> list[StudyRun]:
    """One run per cell."""
    return [run_of(*cell, seed) for cell in CELLS]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracies up to the common step, and the verdict there."""
    common = set.intersection(*({lab.step(path) for path in lab.checkpoints(run)} for run in runs(seed)))
    return pd.concat([cell_rows(lab, *cell, seed=seed, until=max(common)) for cell in CELLS], ignore_index=True)


def shown_rows(checkpoint: Checkpoint) -> pd.DataFrame:
    """The accuracy on test_ood of the queries of which training shows neither fact, either, or both."""
    task = checkpoint.task
    trained, asked = task.training.facts, task.splits[TEST_OOD]
    composed = trained[(trained != NO_FACT).all(1)]
    first, second = (torch.isin(asked.facts[:, hop], composed[:, hop]) for hop in (0, 1))
    right = predicted_answers(checkpoint.net, asked) == asked.answer
    rows = []
    for group, name in enumerate(SHOWN):
        chosen = right[first + 2 * second == group]
        if n := len(chosen):
            interval = proportion_interval(int(chosen.sum()), n)
            rows.append((f"{ACCURACY}, {name}", float(chosen.double().mean()), n, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["quantity", "value", "n", "low", "high"])


def cell_rows(lab: Lab, net: str, hop1: float, hop2: float, *, seed: int, until: int) -> pd.DataFrame:
    """What one net shows; every verdict is a row, 1 for its own and 0 for the others."""
    run, condition = run_of(net, hop1, hop2, seed), name_of(net, hop1, hop2)
    accuracies = accuracy_rows(lab, run, condition=condition, splits=[TEST_ID, TEST_OOD])
    (path,) = (path for path in lab.checkpoints(run) if lab.step(path) == until)
    verdict = lab.diagnose(path).verdict
    verdicts = pd.DataFrame(
        {"step": until, "split": "all", "quantity": f"verdict {each}", "value": float(each == verdict), "n": 1}
        | {"low": nan, "high": nan, "condition": condition}
        for each in Verdict
    )
    shown = shown_rows(load_checkpoint(path)).assign(step=until, split=TEST_OOD, condition=condition)
    return pd.concat([accuracies[accuracies["step"] <= until], verdicts, shown], ignore_index=True)


def accuracy(rows: pd.DataFrame, net: str, hop1: float, hop2: float) -> float:
    """The test_ood accuracy at the common step; nan where it is missing."""
    return last_value(rows, name_of(net, hop1, hop2), ACCURACY, TEST_OOD)


def rank_correlation(net: str, hop: int) -> Callable[[pd.DataFrame], float]:
    """Reads how test_ood accuracy goes with the ratio of one hop, over all cells of an architecture."""

    def read(rows: pd.DataFrame) -> float:
        cells = [cell for cell in CELLS if cell[0] == net]
        scores = [accuracy(rows, *cell) for cell in cells]
        if np.isnan(scores).any() or len(set(scores)) == 1:
            return nan
        return float(spearmanr([cell[hop] for cell in cells], scores).statistic)

    return read


def second_less_first(net: str) -> Callable[[pd.DataFrame], float]:
    """Reads the accuracy with hop 2 augmented alone less that with hop 1 augmented alone."""
    return lambda rows: accuracy(rows, net, 0.0, 1.0) - accuracy(rows, net, 1.0, 0.0)


def partly_shown(net: str) -> list[str]:
    """The cells of an architecture of whose facts some are shown as hop 2 and some are not."""
    return [name_of(*cell) for cell in CELLS if cell[0] == net and 0 < cell[2] < 1]


def of_shown_facts(net: str) -> Callable[[pd.DataFrame], float]:
    """Reads the accuracy on queries whose hop-2 fact is shown less that on the others, in the nets that have both."""

    def read(rows: pd.DataFrame) -> float:
        differences = []
        for name in partly_shown(net):
            right, n = {True: 0.0, False: 0.0}, {True: 0, False: 0}
            for group, shown in enumerate(SHOWN):
                for _, row in series(rows, name, f"{ACCURACY}, {shown}", TEST_OOD).iterrows():
                    right[group >= 2] += row["value"] * row["n"]
                    n[group >= 2] += row["n"]
            if n[True] and n[False]:
                differences.append(right[True] / n[True] - right[False] / n[False])
        return float(np.mean(differences)) if differences else nan

    return read


def true_circuits(rows: pd.DataFrame) -> float:
    """Reads the share of all cells that are a true circuit."""
    found = rows[rows["quantity"] == f"verdict {Verdict.TRUE_CIRCUIT}"]
    return float(found["value"].mean()) if len(found) else nan


_BOTH_HELP = "Augmentation of either hop lets nets generalise sooner, of both soonest ([He] figure 4)"
CLAIMS = (
    *(
        Claim(
            name=f"{net}_more_hop{hop}_generalises_more",
            published=_BOTH_HELP,
            quantity=f"{what}: rank correlation, over the 16 cells, of the ratio of hop {hop} with test_ood accuracy "
            "at the common step; in [-1, 1]",
            holds_if=Bound(low=0.5),
            value=rank_correlation(net, hop),
            chance=0.0,
        )
        for net, what in ARCHITECTURES.items()
        for hop in (1, 2)
    ),
    *(
        Claim(
            name=f"{net}_hop2_matters_more",
            published="Nets fail at the second hop: facts shown there alone help more than those shown as first hop "
            "alone ([He] figure 4, second_hop_full above first_hop_full)",
            quantity=f"{what}: test_ood accuracy with hop 2 augmented alone less that with hop 1 augmented alone, at "
            "the common step; in [-1, 1]",
            holds_if=Bound(low=0.2),
            value=second_less_first(net),
            chance=0.0,
        )
        for net, what in ARCHITECTURES.items()
    ),
    *(
        Claim(
            name=f"{net}_composes_what_is_shown",
            published="Accuracy is told of whole splits ([He] figure 4), not by which of a query's facts are shown",
            quantity=f"{what}, hop-2 ratios .25 and .5: accuracy on test_ood queries whose own hop-2 fact is shown as "
            "a second hop less that on the others, mean over the nets; in [-1, 1]",
            holds_if=Bound(low=0.3),
            value=of_shown_facts(net),
            chance=0.0,
        )
        for net, what in ARCHITECTURES.items()
    ),
    Claim(
        name="there_is_a_boundary",
        published="Whether a net gets the circuit depends on the data ([He] abstract, finding ii); the boundary over "
        "both ratios has not been drawn",
        quantity="share of all cells whose net is a true circuit at the common step; in [0, 1]",
        holds_if=Bound(0.1, 0.9),
        value=true_circuits,
    ),
)


def verdict_in_words(rows: pd.DataFrame, condition: str) -> str:
    """The verdicts of a cell's nets, the most frequent first."""
    own = rows[(rows["condition"] == condition) & rows["quantity"].str.startswith("verdict ") & (rows["value"] == 1)]
    found = Counter(str(quantity).removeprefix("verdict ").replace("_", " ") for quantity in own["quantity"])
    return "<br>".join(f"{n} {name}" for name, n in found.most_common())


def onset(rows: pd.DataFrame, condition: str) -> float:
    """The mean step of the onset over seeds; nan where any seed has none."""
    of_seeds = [part for _, part in rows.groupby("seed")]
    steps = [first_step(part, condition, ACCURACY, TEST_OOD, level=THERE) for part in of_seeds]
    return float(np.mean(steps)) if steps else nan


def boundary(rows: pd.DataFrame) -> go.Figure:
    """Accuracy, share of true circuits and onset over both ratios, a row of maps per architecture."""
    last = int(rows["step"].max())
    n_seeds = rows["seed"].nunique()
    maps = {
        f"test_ood accuracy at step {last:,}": (0.0, 1.0),
        f"share of {n_seeds} nets that are true circuits": (0.0, 1.0),
        f"onset: steps to {THERE:g} of test_ood": (0.0, float(last)),
    }
    titles = [f"{name}<br>{what}" for what in ARCHITECTURES.values() for name in maps]
    figure = make_subplots(
        rows=len(ARCHITECTURES), cols=len(maps), subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=0.2
    )
    ticks = [f"{ratio:g}" for ratio in RATIOS]
    for row, net in enumerate(ARCHITECTURES, start=1):
        names = [[name_of(net, hop1, hop2) for hop1 in RATIOS] for hop2 in RATIOS]
        words = [[verdict_in_words(rows, name) for name in line] for line in names]
        values = {
            "accuracy": [[_mean_over_seeds(rows, name, ACCURACY, TEST_OOD) for name in line] for line in names],
            "true": [
                [_mean_over_seeds(rows, name, f"verdict {Verdict.TRUE_CIRCUIT}", "all") for name in line]
                for line in names
            ],
            "onset": [[onset(rows, name) for name in line] for line in names],
        }
        for col, (z, (low, high)) in enumerate(zip(values.values(), maps.values(), strict=True), start=1):
            shown = [["" if np.isnan(v) else f"{v:,.0f}" if high > 1 else f"{v:.2f}" for v in line] for line in z]
            figure.add_heatmap(
                x=ticks,
                y=ticks,
                z=z,
                zmin=low,
                zmax=high,
                colorscale=SHARE_SCALE,
                reversescale=high > 1,
                showscale=False,
                text=shown,
                texttemplate="%{text}",
                customdata=words,
                hovertemplate="hop 1 %{x}, hop 2 %{y}: %{text}<br>%{customdata}<extra></extra>",
                row=row,
                col=col,
            )
            figure.update_xaxes(title_text="hop-1 ratio", type="category", row=row, col=col)
            figure.update_yaxes(title_text="hop-2 ratio" if col == 1 else None, type="category", row=row, col=col)
    title = wrapped(
        f"Where two-hop nets generalise, by the shares of unseen facts that are shown on each hop: {n_seeds} seeds; "
        "blank: not within the run in every seed; verdicts on hovering"
    )
    figure.update_layout(title=title, width=1150, height=840, margin_t=160, **LAYOUT)
    return figure


def by_facts(rows: pd.DataFrame) -> go.Figure:
    """Accuracy on test_ood by which of a query's own facts are shown; every point is a net."""
    titles = list(ARCHITECTURES.values())
    figure = make_subplots(rows=1, cols=len(ARCHITECTURES), subplot_titles=titles, shared_yaxes=True)
    for col, names in enumerate(map(partly_shown, ARCHITECTURES), start=1):
        for shown, colour in zip(SHOWN, LINE_COLOURS, strict=False):
            chosen = rows[rows["condition"].isin(names) & (rows["quantity"] == f"{ACCURACY}, {shown}")]
            points = {"boxpoints": "all", "jitter": 0.6, "pointpos": 0, "marker": {"size": 5, "color": colour}}
            told = {
                "customdata": chosen[["condition", "n"]],
                "name": f"{shown.removeprefix('the ').replace(' fact alone', '<br>alone')}<br>{len(chosen)} nets",
            }
            hover = "%{customdata[0]}: %{y:.2f} of %{customdata[1]} queries<extra></extra>"
            figure.add_box(y=chosen["value"], hovertemplate=hover, showlegend=False, **points, **told, row=1, col=col)
    figure.update_xaxes(title_text="facts of the query that are shown on their hop", tickangle=0)
    figure.update_yaxes(title_text="accuracy on test_ood", range=[-0.03, 1.03], col=1)
    title = wrapped(
        "Which test_ood queries are answered, by which of their own facts training shows on their hop: nets with hop-2 "
        "ratios .25 and .5; chance .03"
    )
    figure.update_layout(title=title, width=1100, height=520, margin_t=110, **LAYOUT)
    return figure


def _mean_over_seeds(rows: pd.DataFrame, condition: str, quantity: str, split: str) -> float:
    return float(np.mean([last_value(part, condition, quantity, split) for _, part in rows.groupby("seed")]))


STUDY = Study(
    name="phase_diagram",
    title="Phase diagram of two-hop composition: verdict and onset over both augmentation ratios",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"boundary": boundary, "by_facts": by_facts},
)
