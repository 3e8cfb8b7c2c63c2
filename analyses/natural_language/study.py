"""Two-hop questions in words: does augmentation raise OOD accuracy as on tokens, and by which route?

    circuit-lab reproduce natural_language --scale small --seeds 3

A world of people, places, companies and works is drawn, written as items of 2WikiMultihopQA, read back, and asked in
words: "Ada Alder 's_mother 's_employer is". A universal transformer learns it without augmentation (natural) and with
both hops of the OOD facts augmented (both_full); the last checkpoint of each run is diagnosed.
"""

from collections.abc import Callable
from math import nan

import pandas as pd
import plotly.graph_objects as go

from circuit_lab.report.figures.style import LAYOUT
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.figures import timeline_panels
from circuit_lab.studies.timeline import (
    ACCURACY,
    TEST_ID,
    TEST_OOD,
    TRAINING,
    accuracy_rows,
    last_value,
    steps_claim,
)

NATURAL, BOTH_FULL = "natural", "both_full"
N_PEOPLE = 16
"""About 360 facts over 34 names, 4,000 compositions: a little larger than the small token task."""
THROUGH_BRIDGE = "right answers through the bridge"
"""The row of a diagnosis: of the right answers on which all three causal tests can be made, the share that pass."""
THERE, RISEN = 0.5, 0.25
"""Levels of a share: most of the queries; certainly more than a guess gives (chance is below .15)."""
LINES = (
    (ACCURACY, TRAINING, "training accuracy"),
    (ACCURACY, TEST_ID, "test_id accuracy"),
    (ACCURACY, TEST_OOD, "test_ood accuracy"),
)


def run_of(regime: str, seed: int) -> StudyRun:
    """The run of a regime; the seed fixes the world too."""
    task = {
        "kind": "natural_language",
        "world": {"n_people": N_PEOPLE, "seed": seed},
        "form": "words",
        "ood_share": 0.2,
        "test_id_share": 0.05,
        "regime": regime,
        "seed": seed,
    }
    settings = {"task": task, "checkpoints.every": 5000}
    return StudyRun("universal", f"natural_language/{regime}", seed, settings, steps=0.75)


def runs(seed: int) -> list[StudyRun]:
    """Without augmentation and with all of it."""
    return [run_of(regime, seed) for regime in (NATURAL, BOTH_FULL)]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracies over training, from the run's own metrics, and the diagnosis of the last checkpoint."""
    parts = []
    for regime in (NATURAL, BOTH_FULL):
        run = run_of(regime, seed)
        parts += [
            accuracy_rows(lab, run, condition=regime, splits=(TRAINING, TEST_ID, TEST_OOD)),
            diagnosis_rows(lab, run, condition=regime),
        ]
    return pd.concat(parts).fillna({"site": "", "verdict": ""})


def diagnosis_rows(lab: Lab, run: StudyRun, *, condition: str) -> pd.DataFrame:
    """The causal tests, the outcomes of the queries and the verdict at the last checkpoint."""
    path = lab.last(run)
    diagnosis = lab.diagnose(path)
    tests = [
        {name: getattr(row, name) for name in ("split", "site", "value", "n", "low", "high")} | {"quantity": row.name}
        for row in diagnosis.evidence
        if row.unit == "share" and row.split in (TEST_ID, TEST_OOD) and row.name != ACCURACY
    ]
    outcomes = [
        {"split": split.split, "quantity": f"outcome: {name}", "value": share, "n": split.n, "low": nan, "high": nan}
        for split in diagnosis.outcomes
        for name, share in split.shares.items()
    ]
    table = pd.DataFrame(tests + outcomes).astype({"value": float, "low": float, "high": float})
    return table.assign(condition=condition, step=lab.step(path), verdict=diagnosis.verdict)


def accuracy_gain(rows: pd.DataFrame) -> float:
    """OOD accuracy at the end, both_full less natural."""
    return last_value(rows, BOTH_FULL, ACCURACY, TEST_OOD) - last_value(rows, NATURAL, ACCURACY, TEST_OOD)


def through_bridge(regime: str, split: str) -> Callable[[pd.DataFrame], float]:
    """Reads the share of a split's right answers that go through the bridge at the end."""

    def read(rows: pd.DataFrame) -> float:
        enough = last_value(rows, regime, ACCURACY, split) >= RISEN
        return last_value(rows, regime, THROUGH_BRIDGE, split) if enough else nan

    return read


CLAIMS = (
    Claim(
        name="augmentation_raises_ood_accuracy",
        published="With both hops augmented OOD accuracy is 1 before 0.1 M steps, without it leaves 0 only at 0.32 M "
        "([He] figure 4, on tokens)",
        quantity="test_ood accuracy at the end, both_full less natural; in [-1, 1]",
        holds_if=Bound(low=0.25),
        value=accuracy_gain,
        chance=0.0,
    ),
    steps_claim(
        "augmentation_is_sooner",
        (NATURAL, ACCURACY, TEST_OOD, THERE),
        (BOTH_FULL, ACCURACY, TEST_OOD, THERE),
        times=2.0,
        published="Full augmentation generalises before 0.1 M steps, natural after 0.32 M ([He] figure 4, on tokens)",
        quantity=f"steps until test_ood accuracy is {THERE}, natural over both_full; ratio, > 0; a lower bound where "
        "natural never is",
    ),
    Claim(
        name="full_is_the_circuit",
        published="With full augmentation the bridge is found as OOD accuracy rises: the same circuit ([He] figure 4, "
        "on tokens)",
        quantity=f"both_full, at the end: share of the right test_ood answers that go through the bridge, in [0, 1]; "
        f"untested where the accuracy is below {RISEN}",
        holds_if=Bound(low=THERE),
        value=through_bridge(BOTH_FULL, TEST_OOD),
        chance=0.0,
    ),
    Claim(
        name="id_goes_through_the_bridge",
        published="The path that answers ID queries is established early ([He] abstract, finding i)",
        quantity=f"natural, at the end: share of the right test_id answers that go through the bridge, in [0, 1]; "
        f"untested where the accuracy is below {RISEN}",
        holds_if=Bound(low=THERE),
        value=through_bridge(NATURAL, TEST_ID),
        chance=0.0,
    ),
)


def timelines(rows: pd.DataFrame) -> go.Figure:
    """Accuracies against steps, a panel for each regime."""
    return timeline_panels(rows, (NATURAL, BOTH_FULL), LINES, title="Questions in words; chance is below .15", n_cols=2)


def outcomes(rows: pd.DataFrame) -> go.Figure:
    """Per-query outcomes on test_ood at the end, mean over seeds."""
    chosen = rows[(rows["split"] == TEST_OOD) & rows["quantity"].str.startswith("outcome: ")]
    shares = chosen.groupby(["condition", "quantity"])["value"].mean().unstack()
    figure = go.Figure(
        [go.Bar(name=str(name).removeprefix("outcome: "), x=list(shares.index), y=shares[name]) for name in shares]
    )
    title = f"test_ood at the end: mean share of each outcome over {rows['seed'].nunique()} seeds"
    figure.update_yaxes(title_text="share of queries", range=[0, 1])
    figure.update_layout(title=title, barmode="stack", height=420, width=700, **LAYOUT)
    return figure


STUDY = Study(
    name="natural_language",
    title="Two-hop questions in words: augmentation, OOD accuracy and the circuit",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"timelines": timelines, "outcomes": outcomes},
)
