"""Nets trained with about as many pairs as grokking needs: does test accuracy stop half-way, and does it stay there?

    circuit-lab reproduce semi_grokking --scale small --seeds 3

[Varma] predicts plateaus near the critical size. They are found by change points; each stands to the
end of the run or ends before, and the run grokked after it or did not.
"""

from math import nan

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.measures import Plateaus, accuracy_plateaus, generalising_norm_share
from circuit_lab.measures.modular.plateaus import HIGHEST, LOWEST
from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.accuracy_by_size import ACCURACY, HELD_OUT
from circuit_lab.studies.circuit_efficiency import SCRATCH, scratch
from circuit_lab.studies.modular_metrics import metric_rows
from circuit_lab.tasks import ModularTask
from circuit_lab.training import load_checkpoint

SIZES = SCRATCH[2:]
"""Shares of the pairs, from where no net generalises to where all do."""
CONDITIONS = tuple(f"{share:g} of the pairs" for share in SIZES)
SHARE_OF_LOGITS = "generalising share of the logits"


def runs(seed: int) -> list[StudyRun]:
    """One run per size."""
    return [scratch(seed, share=share) for share in SIZES]


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Accuracies at every evaluation, and at the end the generalising part's share of the held-out logits."""
    pairs = zip(runs(seed), CONDITIONS, strict=True)
    return pd.concat([run_rows(lab, run, condition) for run, condition in pairs], ignore_index=True)


def run_rows(lab: Lab, run: StudyRun, condition: str) -> pd.DataFrame:
    """What one run shows."""
    metrics, checkpoint = metric_rows(lab, run, condition), load_checkpoint(lab.last(run))
    task = checkpoint.task
    assert isinstance(task, ModularTask), "these runs are of modular tasks"
    at_end = {"step": lab.step(lab.last(run)), "split": HELD_OUT, "quantity": SHARE_OF_LOGITS, "low": nan, "high": nan}
    at_end |= {"value": generalising_norm_share(checkpoint.net, task), "n": len(task.splits[HELD_OUT])}
    at_end |= {"condition": condition, "n_train": len(task.training)}
    return pd.concat([metrics, pd.DataFrame([at_end])], ignore_index=True)


def plateaus(rows: pd.DataFrame, condition: str) -> Plateaus | None:
    """The plateaus of one seed's run of a size; None of a run too short to look for any."""
    chosen = (rows["condition"] == condition) & (rows["quantity"] == ACCURACY)
    series = pd.DataFrame(rows[chosen]).sort_values("step")
    if len(series) < 6:
        return None
    return accuracy_plateaus(
        [int(step) for step in series["step"]], [float(v) for v in series["value"]], n=int(series["n"].max())
    )


def sizes_with_plateau(rows: pd.DataFrame) -> float:
    """Reads at how many sizes there is a plateau."""
    found = [plateaus(rows, condition) for condition in CONDITIONS]
    return nan if None in found else float(sum(bool(each and each.plateaus) for each in found))


def grokked_after_all(rows: pd.DataFrame) -> float:
    """Reads the share of plateaus whose run ends solved; nan without any."""
    found = [plateaus(rows, condition) for condition in CONDITIONS]
    after = [plateau.after for each in found if each is not None for plateau in each.plateaus]
    return float(np.mean([accuracy >= HIGHEST for accuracy in after])) if after else nan


def half_way_at_end(rows: pd.DataFrame) -> float:
    """Reads how many sizes end between chance and solved, plateau or not."""
    last = rows[(rows["quantity"] == ACCURACY) & (rows["step"] == rows["step"].max())]
    return float(((last["value"] > LOWEST) & (last["value"] < HIGHEST)).sum()) if len(last) else nan


_P4 = "P4: near the critical size, accuracy stops half-way: semi-grokking ([Varma] section 5.3, figure 5)"
CLAIMS = (
    Claim(
        name="accuracy_stops_half_way",
        published=_P4,
        quantity=f"sizes, of {len(SIZES)}, with a plateau of test accuracy between .1 and .9 that lasts a fifth of the "
        "run or longer",
        holds_if=Bound(low=1.0),
        value=sizes_with_plateau,
        chance=0.0,
    ),
    Claim(
        name="some_end_half_way",
        published=_P4,
        quantity=f"sizes, of {len(SIZES)}, with a test accuracy between .1 and .9 at the end of the run, on a plateau "
        "or still moving",
        holds_if=Bound(low=1.0),
        value=half_way_at_end,
        chance=0.0,
    ),
    Claim(
        name="often_transient",
        published="Semi-grokking is often transient: nets grok after all ([Varma] section 5.3)",
        quantity=f"share of plateaus whose run ends at {HIGHEST:g} or above, in [0, 1]; untested where there are none",
        holds_if=Bound(low=0.5),
        value=grokked_after_all,
    ),
)


def accuracy_curves(rows: pd.DataFrame) -> go.Figure:
    """Test accuracy against steps, a panel per size and a line per seed; plateaus bold."""
    n_pairs = {c: int(rows["n_train"][rows["condition"] == c].max()) for c in CONDITIONS}
    titles = [f"{condition} (D = {n_pairs[condition]})" for condition in CONDITIONS]
    figure = make_subplots(
        rows=len(CONDITIONS), cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.04
    )
    for row, condition in enumerate(CONDITIONS, start=1):
        for colour, (seed, of_seed) in zip(LINE_COLOURS, rows.groupby("seed"), strict=False):
            series = of_seed[(of_seed["condition"] == condition) & (of_seed["quantity"] == ACCURACY)]
            style = {"legendgroup": f"seed {seed}", "row": row, "col": 1, "mode": "lines"}
            thin = {"line": {"width": 1.2, "color": colour}, "name": f"seed {seed}", "showlegend": row == 1}
            figure.add_scatter(x=series["step"], y=series["value"], **thin, **style)
            found = plateaus(pd.DataFrame(of_seed), condition)
            for plateau in found.plateaus if found is not None else ():
                bold = {"line": {"width": 6, "color": colour}, "opacity": 0.45, "showlegend": False}
                name = f"{plateau.kind} plateau at {plateau.level:.2f}"
                figure.add_scatter(x=[plateau.start, plateau.end], y=[plateau.level] * 2, name=name, **bold, **style)
        figure.update_yaxes(range=[-0.03, 1.03], row=row, col=1)
    figure.update_yaxes(title_text="test accuracy", row=3, col=1)
    figure.update_xaxes(title_text="optimiser steps", row=len(CONDITIONS), col=1)
    title = wrapped("Test accuracy of nets trained from scratch, by number of pairs; plateaus bold; chance below .03")
    figure.update_layout(title=title, width=1000, height=980, **LAYOUT)
    return figure


STUDY = Study(
    name="semi_grokking",
    title="Semi-grokking: whether test accuracy stops half-way near the critical size",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"accuracy_curves": accuracy_curves},
)
