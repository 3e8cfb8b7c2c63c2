"""Timelines of runs as measurements, and the numbers that claims read from them."""

from collections.abc import Callable, Sequence
from math import inf, nan

import pandas as pd

from circuit_lab.measures import proportion_interval
from circuit_lab.studies.lab import Lab
from circuit_lab.studies.ranges import UNKNOWN, Range, decided, ratio_of
from circuit_lab.studies.study import Bound, Claim, StudyRun
from circuit_lab.tasks import TwoHopTask
from circuit_lab.training import load_checkpoint, read_metrics
from circuit_lab.verdict.runs.quantities import find_evidence

TRAINING, TEST_ID, TEST_OOD = "all training items", "test_id", "test_ood"
ACCURACY, HOP1, HOP2, MEDIATION, BRIDGE_FOUND = "accuracy", "hop 1", "hop 2", "mediation", "bridge_found"
_PLACE_OF = {
    "training": (ACCURACY, TRAINING),
    "ID": (ACCURACY, TEST_ID),
    "OOD": (ACCURACY, TEST_OOD),
    "mediation, training": (MEDIATION, "train_inferred"),
    "hop 1, ID": (HOP1, TEST_ID),
    "hop 2, ID": (HOP2, TEST_ID),
    "mediation, ID": (MEDIATION, TEST_ID),
    "hop 1, OOD": (HOP1, TEST_OOD),
    "hop 2, OOD": (HOP2, TEST_OOD),
    "mediation, OOD": (MEDIATION, TEST_OOD),
}
"""What a quantity of a run's timeline is called in a study, and on which split it is read."""


def timeline_rows(lab: Lab, run: StudyRun, *, condition: str) -> pd.DataFrame:
    """What happened in a run, at every checkpoint: accuracies, hops, mediation, and the lens's `bridge_found`.

    Args:
        lab: The finished runs.
        run: One of them.
        condition: What the run is called in the study.

    Returns:
        Rows with the columns of `COLUMNS`. Every value is a share in [0, 1] with its 95 % interval; mediation is the
        share of testable queries answered right and through the bridge; `bridge_found` ([He]) that of queries whose
        bridge is the lens's top token at any site and position. A share without queries is nan.
    """
    rows = []
    for point in lab.diagnose_run(run).timeline:
        if point.quantity in _PLACE_OF:
            quantity, split = _PLACE_OF[point.quantity]
            rows.append((point.step, split, quantity, point.value, point.n, point.low, point.high))
    for path in lab.checkpoints(run):
        diagnosis = lab.diagnose(path)
        for split in (TEST_ID, TEST_OOD):
            found = find_evidence(diagnosis, BRIDGE_FOUND, split)
            if found is not None:
                rows.append((lab.step(path), split, BRIDGE_FOUND, found.value, found.n, found.low, found.high))
    table = pd.DataFrame(rows, columns=["step", "split", "quantity", "value", "n", "low", "high"])
    table = table.astype(dict.fromkeys(("value", "low", "high"), float))
    return table.assign(condition=condition).sort_values(["quantity", "split", "step"], kind="stable")


def accuracy_rows(lab: Lab, run: StudyRun, *, condition: str, splits: Sequence[str]) -> pd.DataFrame:
    """The accuracies of a run at every evaluation, from its own metrics; more often than there are checkpoints.

    Args:
        lab: The finished runs.
        run: One of them, on a two-hop task.
        condition: What the run is called in the study.
        splits: Splits of its task, and `TRAINING` for all that it is trained on.

    Returns:
        Rows with the columns of `COLUMNS`; every value is a share in [0, 1] with its 95 % interval.
    """
    task = load_checkpoint(lab.last(run)).task
    assert isinstance(task, TwoHopTask), "such a run has a two-hop task"
    n_queries = {split: len(task.training if split == TRAINING else task.splits[split]) for split in splits}
    rows = []
    for record in read_metrics(lab.folder(run)):
        for split, n in n_queries.items():
            value = record[f"accuracy/{'training' if split == TRAINING else split}"]
            interval = proportion_interval(round(value * n), n)
            rows.append((record["step"], split, value, n, interval.low, interval.high))
    table = pd.DataFrame(rows, columns=["step", "split", "value", "n", "low", "high"])
    return table.assign(condition=condition, quantity=ACCURACY)


def series(rows: pd.DataFrame, condition: str, quantity: str, split: str) -> pd.DataFrame:
    """One quantity of one condition on one split, in order of step."""
    chosen = (rows["condition"] == condition) & (rows["quantity"] == quantity) & (rows["split"] == split)
    return pd.DataFrame(rows[chosen]).sort_values("step", kind="stable")


def last_value(rows: pd.DataFrame, condition: str, quantity: str, split: str) -> float:
    """The value at the last step; nan where there is none."""
    values = [float(value) for value in series(rows, condition, quantity, split)["value"]]
    return values[-1] if values else nan


def steps_to(rows: pd.DataFrame, condition: str, quantity: str, split: str, *, level: float) -> Range:
    """The first step at which a quantity is at least `level`; beyond the last one where it never is."""
    points = series(rows, condition, quantity, split)
    steps = [float(step) for step in points["step"]]
    if not steps:
        return UNKNOWN
    reached = [step for step, value in zip(steps, points["value"], strict=True) if value >= level]
    return (reached[0], reached[0]) if reached else (steps[-1], inf)


def first_step(rows: pd.DataFrame, condition: str, quantity: str, split: str, *, level: float) -> float:
    """The first step at which a quantity is at least `level`; nan if it never is."""
    step, at_most = steps_to(rows, condition, quantity, split, level=level)
    return step if step == at_most else nan


Level = tuple[str, str, str, float]
"""(condition, quantity, split, level)."""


def times_the_steps(later: Level, earlier: Level, *, holds_from: float) -> Callable[[pd.DataFrame], float]:
    """Reads how many times as many steps one quantity takes to its level as another; a ratio, > 0.

    Args:
        later: What is divided.
        earlier: What it is divided by.
        holds_from: The ratio from which the claim holds.

    Returns:
        A function of measurements. A level that is never reached is reached after the last step, or not at all: the
        ratio is then known from one side, and is a number where that side decides the claim, else nan.
    """

    def read(rows: pd.DataFrame) -> float:
        *of_later, later_level = later
        *of_earlier, earlier_level = earlier
        steps = steps_to(rows, *of_later, level=later_level), steps_to(rows, *of_earlier, level=earlier_level)
        return decided(ratio_of(*steps), Bound(low=holds_from))

    return read


def steps_claim(name: str, later: Level, earlier: Level, *, times: float, published: str, quantity: str) -> Claim:
    """A claim that one quantity takes many times as many steps to its level as another.

    Args:
        name: As in `Claim`, and so `published` and `quantity`.
        later: What takes more steps.
        earlier: What takes fewer.
        times: How many times as many, at least.
        published: What the paper says.
        quantity: What the ratio is.

    Returns:
        The claim; its number is that of `times_the_steps`.
    """
    return Claim(
        name=name,
        published=published,
        quantity=quantity,
        holds_if=Bound(low=times),
        value=times_the_steps(later, earlier, holds_from=times),
        chance=1.0,
    )
