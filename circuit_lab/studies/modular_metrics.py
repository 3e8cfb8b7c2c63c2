"""The metrics of a run on modular arithmetic as measurements, at every evaluation."""

from math import exp, nan

import pandas as pd

from circuit_lab.measures import proportion_interval
from circuit_lab.studies.accuracy_by_size import ACCURACY, HELD_OUT, TRAIN_ACCURACY
from circuit_lab.studies.lab import Lab
from circuit_lab.studies.study import StudyRun
from circuit_lab.tasks import ModularTask
from circuit_lab.training import load_checkpoint, read_metrics

PROBABILITY, NORM, COLLAPSED = "probability of the answer", "norm", "softmax collapse"


def metric_rows(lab: Lab, run: StudyRun, condition: str) -> pd.DataFrame:
    """Accuracies, probabilities, norm and collapsed share of a run, from its own metrics.

    Args:
        lab: The finished runs.
        run: One of them, on modular arithmetic.
        condition: What it is a case of.

    Returns:
        Rows with the columns of `COLUMNS` and `n_train`. Accuracies and the collapsed share (of training pairs whose
        loss is exactly 0) lie in [0, 1], with their 95 % intervals; so does the answer's probability, exp(-loss), a
        geometric mean over pairs, without one. A split without pairs has no rows.
    """
    task = load_checkpoint(lab.last(run)).task
    assert isinstance(task, ModularTask), "these runs are of modular tasks"
    quantities = {"train": TRAIN_ACCURACY, HELD_OUT: ACCURACY}
    n_of = {split: len(task.splits[split]) for split in quantities if len(task.splits[split])}
    rows = []
    for record in read_metrics(lab.folder(run)):
        step = record["step"]
        shares = [(split, quantities[split], record[f"accuracy/{split}"]) for split in n_of]
        shares.append(("train", COLLAPSED, record["softmax_collapse"]))
        for split, quantity, value in shares:
            interval = proportion_interval(round(value * n_of[split]), n_of[split])
            rows.append((step, split, quantity, value, n_of[split], interval.low, interval.high))
        rows += [(step, split, PROBABILITY, exp(-record[f"loss/{split}"]), n, nan, nan) for split, n in n_of.items()]
        rows.append((step, "all weights", NORM, record["weight_norm"], 1, nan, nan))
    table = pd.DataFrame(rows, columns=["step", "split", "quantity", "value", "n", "low", "high"])
    return table.assign(condition=condition, n_train=len(task.training))
