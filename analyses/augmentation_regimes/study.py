"""When does each augmentation regime get its circuit, and when its OOD accuracy?

    circuit-lab reproduce augmentation_regimes --scale small --seeds 3

One universal transformer per regime and seed; every checkpoint is diagnosed. Ratios of steps, not steps, decide, so
that the claims can be read at any scale. A level that a run never reaches counts as reached at its last step, which
makes the ratio a lower bound where it stands in the numerator, and one below a claim's limit tells nothing; in the
denominator nothing can be told.
"""

from math import nan

import pandas as pd
import plotly.graph_objects as go

from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.figures import timeline_panels
from circuit_lab.studies.timeline import (
    ACCURACY,
    BRIDGE_FOUND,
    HOP1,
    HOP2,
    MEDIATION,
    TEST_ID,
    TEST_OOD,
    TRAINING,
    last_value,
    steps_claim,
    timeline_rows,
)
from circuit_lab.tasks import AUGMENTATION_REGIMES

SLOW = {"natural": 1.5}
"""Regimes that are trained longer, as a multiple of the recipe's steps."""
THERE, RISEN = 0.5, 0.25
"""Levels of a share: most of the queries; certainly more than a guess or a shortcut gives (chance is below .1)."""
LINES = (
    (ACCURACY, TRAINING, "training accuracy"),
    (ACCURACY, TEST_ID, "test_id accuracy"),
    (ACCURACY, TEST_OOD, "test_ood accuracy"),
    (MEDIATION, TEST_ID, "test_id right through the bridge"),
    (HOP1, TEST_OOD, "hop 1 on test_ood"),
    (HOP2, TEST_OOD, "hop 2 on test_ood"),
    (BRIDGE_FOUND, TEST_OOD, "bridge_found on test_ood (lens)"),
)


def run_of(regime: str, seed: int) -> StudyRun:
    """The run of a regime."""
    settings = {"task.regime": regime}
    return StudyRun("universal", f"universal/{regime}", seed, settings, steps=SLOW.get(regime, 1.0))


def runs(seed: int) -> list[StudyRun]:
    """One run per regime."""
    return [run_of(regime, seed) for regime in AUGMENTATION_REGIMES]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """The timeline of every regime."""
    return pd.concat([timeline_rows(lab, run_of(regime, seed), condition=regime) for regime in AUGMENTATION_REGIMES])


def mediated_over_right(rows: pd.DataFrame) -> float:
    """What both_full answers right and through the bridge at the end, of what it answers right.

    The first is a share of the testable queries and the second of all: no share of right answers is measured.
    """
    accuracy = last_value(rows, "both_full", ACCURACY, TEST_OOD)
    return min(1.0, last_value(rows, "both_full", MEDIATION, TEST_OOD) / accuracy) if accuracy >= RISEN else nan


OOD_RISES = ("natural", ACCURACY, TEST_OOD, RISEN)
CLAIMS = (
    steps_claim(
        "id_circuit_before_ood",
        OOD_RISES,
        ("natural", MEDIATION, TEST_ID, THERE),
        times=1.5,
        published="The path that answers ID queries is established early; grokking integrates facts into it ([He] "
        "abstract, finding i)",
        quantity=f"natural: steps until test_ood accuracy is {RISEN}, over steps until most test_id queries are "
        "answered right and through the bridge; ratio, > 0",
    ),
    steps_claim(
        "hop1_before_ood",
        OOD_RISES,
        ("natural", HOP1, TEST_ID, THERE),
        times=1.5,
        published="The path that answers ID queries, its first hop too, is established early ([He] abstract, i)",
        quantity=f"natural: steps until test_ood accuracy is {RISEN}, over steps until hop 1 works on most test_id "
        "queries; ratio, > 0",
    ),
    steps_claim(
        "bridge_found_before_ood",
        ("natural", ACCURACY, TEST_OOD, THERE),
        ("natural", BRIDGE_FOUND, TEST_OOD, 0.9),
        times=1.2,
        published="natural: the bridge is found by 0.36 M steps, OOD accuracy is .6 only after 0.5 M ([He] figure 4)",
        quantity=f"natural: steps until test_ood accuracy is {THERE}, over steps until the lens finds the bridge of "
        "nine in ten test_ood queries; ratio, > 0. In a causal net the lens's share is trivial",
    ),
    steps_claim(
        "full_is_sooner",
        ("natural", ACCURACY, TEST_OOD, THERE),
        ("both_full", ACCURACY, TEST_OOD, THERE),
        times=2.0,
        published="Full augmentation generalises before 0.1 M steps, natural after 0.32 M ([He] figure 4)",
        quantity=f"steps until test_ood accuracy is {THERE}, natural over both_full; ratio, > 0",
    ),
    Claim(
        name="full_is_the_circuit",
        published="With full augmentation the bridge is found as OOD accuracy rises: the same circuit ([He] figure 4)",
        quantity="both_full, at the end: share of the testable test_ood queries that are answered right and through "
        "the bridge, over the share of all test_ood queries that are answered right; two denominators, so cut at 1; "
        "in [0, 1]",
        holds_if=Bound(low=0.7),
        value=mediated_over_right,
        chance=0.0,
    ),
    steps_claim(
        "sparse_is_slower",
        ("both_half", ACCURACY, TEST_OOD, THERE),
        ("both_full", ACCURACY, TEST_OOD, THERE),
        times=1.5,
        published="Half augmentation leaves 0 at 0.4 M steps and needs 1.25 M, full less than 0.1 M ([He] figure 4)",
        quantity=f"steps until test_ood accuracy is {THERE}, both_half over both_full; ratio, > 0",
    ),
)


def timelines(rows: pd.DataFrame) -> go.Figure:
    """Every share against steps, a panel for each regime."""
    regimes = [regime for regime in AUGMENTATION_REGIMES if (rows["condition"] == regime).any()]
    return timeline_panels(rows, regimes, LINES, title="Five augmentation regimes; chance is below .1")


STUDY = Study(
    name="augmentation_regimes",
    title="Five augmentation regimes: when each gets its circuit and its OOD accuracy",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"timelines": timelines},
)
