"""The critical number of training pairs, three times: by efficiency, by ungrokking, and by training from scratch.

    circuit-lab reproduce critical_dataset_size --scale small --seeds 3

[Varma] defines it as the size at which memorising and generalising are equally efficient. Whether nets turn there, from
either side, is another question: a net that has a circuit and one that has not may end differently on the same pairs.
"""

from collections.abc import Callable
from math import isnan, log10, nan

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.measures import Crossing, crossing
from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies import Bound, Claim, Lab, Study, StudyRun
from circuit_lab.studies.accuracy_by_size import (
    ACCURACY,
    accuracy_rows,
    add_points_and_curve,
    midpoint,
    points,
)
from circuit_lab.studies.circuit_efficiency import (
    DECAY,
    DECAYS,
    GENERALISED,
    MEMORISED,
    RETRAINED,
    SCRATCH,
    memorising,
    retrained,
    scratch,
    trained,
)
from circuit_lab.studies.pure_nets import (
    COMMON_LOGIT,
    GENERALISING,
    MEMORISING,
    add_norm_curve,
    net_rows,
    norm_curve,
)
from circuit_lab.studies.ranges import UNKNOWN, Range, decided, ratio_of

ROTE = MEMORISING["random"]
UNGROKKING, FROM_SCRATCH = "grokked, trained on with D pairs", "from scratch with D pairs"
BOTH = 0.163
"""Share of the pairs at which nets of both histories are compared; the middle of those that both were trained on."""


def runs_of(seed: int) -> tuple[list[tuple[StudyRun, str]], list[tuple[StudyRun, str]]]:
    """Nets whose norm is read, and nets whose accuracy is read; each with what it is a case of."""
    rote = [(memorising(seed, "random", share=share, decay=decay), ROTE) for share in MEMORISED for decay in DECAYS]
    large = [(trained(seed, share=share, decay=decay), GENERALISING) for share in GENERALISED for decay in DECAYS]
    small = [(retrained(seed, share=share, decay=decay), GENERALISING) for share in RETRAINED for decay in DECAYS]
    down = [(retrained(seed, share=share), UNGROKKING) for share in RETRAINED]
    up = [(scratch(seed, share=share), FROM_SCRATCH) for share in SCRATCH]
    return rote + large + small, down + up


def runs(seed: int) -> list[StudyRun]:
    """All runs of a seed."""
    return list({run.place: run for part in runs_of(seed) for run, _ in part}.values())


def measure(lab: Lab, seed: int) -> pd.DataFrame:
    """Norms and logits of the pure nets, accuracies of the others."""
    for_norm, for_accuracy = runs_of(seed)
    norms = [net_rows(lab, *each) for each in for_norm]
    return pd.concat(
        [*norms, *(accuracy_rows(lab, *each, weight_decay=DECAY) for each in for_accuracy)], ignore_index=True
    )


def crossing_of(rows: pd.DataFrame) -> Crossing | None:
    """Where memorising comes to cost as much norm as generalising; None where there are no curves.

    Below the critical size no net stays purely generalising, so that norm is taken not to depend on D, as it does not
    above (study `efficiency`).
    """
    rote = norm_curve(rows, ROTE)
    if rote is None:
        return None
    general = norm_curve(rows, GENERALISING, flat_over=[int(rote.n_train.min()), int(rote.n_train.max())])
    return None if general is None else crossing(rote, general)


def efficient_size(rows: pd.DataFrame) -> Range:
    """The size of equal efficiency; unknown where the curves do not cross."""
    found = crossing_of(rows)
    return UNKNOWN if found is None or found.value is None else (found.value, found.value)


def over_ungrokking(size: Callable[[pd.DataFrame], Range], holds_if: Bound) -> Callable[[pd.DataFrame], float]:
    """Reads a size over the midpoint of ungrokking; nan where one of them lies beyond the sizes and leaves it open."""
    return lambda rows: decided(ratio_of(size(rows), midpoint(rows, UNGROKKING)), holds_if)


def accuracy_at_both(rows: pd.DataFrame, condition: str) -> float:
    """Reads the test accuracy at the size that both histories share."""
    table = points(rows, condition)
    if table.empty:
        return nan
    sizes = sorted({int(n) for n in points(rows, UNGROKKING)["n_train"]})
    chosen = sizes[RETRAINED.index(BOTH)] if len(sizes) == len(RETRAINED) else nan
    values = table[table["n_train"] == chosen][ACCURACY]
    return float(values.mean()) if len(values) else nan


AROUND, APART = Bound(0.5, 2.0), Bound(low=1.5)
_OURS = (
    "Ours: [Varma] has one critical size for both. Its figures show test accuracies of about .7 at 800 to 1,000 pairs "
)
_OURS += "for nets that had grokked (4), and half-way plateaus at 1,500 to 2,050 from scratch (5)"
CLAIMS = (
    Claim(
        name="ungrokking_is_where_efficiency_turns",
        published="Ungrokking happens around the size at which both circuits are equally efficient ([Varma] section 4)",
        quantity="size at which memorising costs the norm of generalising nets, whose norm is taken not to depend on "
        "D, over the midpoint of ungrokking; ratio, > 0. Untested where memorising does not come to cost as much",
        holds_if=AROUND,
        value=over_ungrokking(efficient_size, AROUND),
    ),
    Claim(
        name="hysteresis",
        published=_OURS,
        quantity="midpoint from scratch over the midpoint of ungrokking, within the budgets of both; ratio, > 0. Where "
        "accuracy turns beyond the sizes tried the number is known from one side only, and is untested where that "
        "leaves it open",
        holds_if=APART,
        value=over_ungrokking(lambda rows: midpoint(rows, FROM_SCRATCH), APART),
        chance=1.0,
    ),
    Claim(
        name="history_decides",
        published=_OURS,
        quantity=f"on the same {BOTH:g} of the pairs: test accuracy of nets that had grokked less that of nets from "
        "scratch, in [-1, 1]",
        holds_if=Bound(low=0.5),
        value=lambda rows: accuracy_at_both(rows, UNGROKKING) - accuracy_at_both(rows, FROM_SCRATCH),
        chance=0.0,
    ),
)


def three_sizes(rows: pd.DataFrame) -> go.Figure:
    """Norm at one correct logit, and test accuracy, against D; the three critical sizes with their intervals."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    found = crossing_of(rows)
    for colour, condition in zip(LINE_COLOURS, (ROTE, GENERALISING), strict=False):
        curve = norm_curve(rows, condition)
        if curve is not None:
            name = f"{condition}: norm at logit {COMMON_LOGIT:g}"
            add_norm_curve(figure, curve, name=name, line={"color": colour}, row=1, col=1)
    for colour, condition in zip(LINE_COLOURS[2:], (UNGROKKING, FROM_SCRATCH), strict=False):
        add_points_and_curve(figure, rows, condition, colour=colour, row=2, col=1)
    if found is not None and found.value is not None:
        interval = "" if isnan(found.low) else f" [{found.low:.0f}, {found.high:.0f}]"
        for row in (1, 2):
            figure.add_vline(found.value, line_dash="dot", row=row, col=1)  # type: ignore[arg-type]
        words = f"equal efficiency: {found.value:.0f}{interval}"
        # On a logarithmic axis plotly draws lines at numbers, and words at their logarithms.
        figure.add_annotation(x=log10(found.value), y=1.02, yref="paper", text=words, showarrow=False)
    figure.update_xaxes(title_text="training pairs D", type="log", row=2, col=1)
    figure.update_xaxes(type="log", row=1, col=1)
    figure.update_yaxes(title_text="parameter norm", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="test accuracy at the end", range=[-0.03, 1.03], row=2, col=1)
    seeds = rows["seed"].nunique()
    title = wrapped(f"Three critical sizes, {seeds} seeds: midpoints with 95 % bootstrap intervals; chance below .03")
    figure.update_layout(title=title, width=1000, height=760, **LAYOUT)
    return figure


STUDY = Study(
    name="critical_dataset_size",
    title="The critical size by efficiency, by ungrokking and from scratch",
    claims=CLAIMS,
    runs=runs,
    measure=measure,
    figures={"three_sizes": three_sizes},
)
