"""Figures of a calibration: each takes the finished result and draws it."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import BLUE, GREEN, GREY, LAYOUT, ORANGE, PALE, SHARE_SCALE, wrapped
from circuit_lab.verdict.calibration import HALVES, Calibration, CurvePoint, HalfScores, Rate, ThresholdScan

HALF_COLOURS = {"development": ORANGE, "held_out": BLUE}
HALF_NAMES = {"development": "development half", "held_out": "held-out half"}
FAMILY_NAMES = {"two_hop": "two-hop composition", "modular": "modular arithmetic"}
_N_THRESHOLD_COLUMNS = 4


def confusion_figure(scores: Sequence[HalfScores], *, title: str) -> go.Figure:
    """Heat maps, one for each half: share of each true verdict's controls by the verdict they got, counts in the cells.

    Args:
        scores: The halves' scores.
        title: What the controls are.

    Returns:
        The figure.
    """
    titles = [_half_title(half) for half in scores]
    figure = make_subplots(cols=len(scores), subplot_titles=titles, horizontal_spacing=0.22)
    for column, half in enumerate(scores, start=1):
        matrix = half.confusion
        counts = np.array(matrix.counts, dtype=int).reshape(len(matrix.truths), len(matrix.verdicts))
        figure.add_trace(
            go.Heatmap(
                z=counts / counts.sum(1, keepdims=True).clip(min=1),
                x=[_words(verdict) for verdict in matrix.verdicts],
                y=[f"{_words(truth)} ({n})" for truth, n in zip(matrix.truths, counts.sum(1), strict=True)],
                text=np.where(counts > 0, counts.astype(str), ""),
                texttemplate="%{text}",
                zmin=0,
                zmax=1,
                colorscale=SHARE_SCALE,
                colorbar={"title": "share<br>of row"},
                showscale=column == len(scores),
                hovertemplate="truth %{y}<br>verdict %{x}<br>share %{z:.3f}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure.update_layout(
        title=wrapped(f"{title}: verdicts given, by true verdict; the diagonal is right"),
        height=560,
        width=1100,
        margin={"t": 110, "b": 150},
        **LAYOUT,
    )
    figure.update_xaxes(title="verdict given", tickangle=-45)
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title="true verdict (n)", col=1)
    return figure


def reliability_figure(scores: Sequence[HalfScores]) -> go.Figure:
    """Share right against confidence, bin by bin, with the line on which confidence means what it says."""
    diagonal = go.Scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="identity: perfect", line={"color": GREY, "dash": "dash"}
    )
    figure = go.Figure([diagonal])
    for half in scores:
        bins = [b for b in half.reliability.bins if b.right.n]
        error = half.reliability.error
        figure.add_trace(
            go.Scatter(
                x=[b.confidence for b in bins],
                y=[b.right.value for b in bins],
                error_y=_error_bars([b.right for b in bins]),
                mode="markers+text",
                text=[f" {b.right.n}" for b in bins],
                textposition="middle right",
                marker={"color": HALF_COLOURS[half.half], "size": 10},
                name=f"{HALF_NAMES[half.half]}, n = {error.n}: error {error.value:.3f} "
                f"[{error.low:.3f}, {error.high:.3f}]",
                hovertemplate="confidence %{x:.3f}: %{y:.3f} right of%{text}<extra></extra>",
            )
        )
    figure.update_layout(
        title=wrapped(
            "Does confidence mean what it says? Share right by bin of confidence (n beside each, 95 % Wilson)"
        ),
        height=520,
        width=900,
        legend={"x": 0.02, "y": 0.98},
        **LAYOUT,
    )
    figure.update_xaxes(title="mean confidence of the bin (share of resamples)", range=[0, 1.05])
    figure.update_yaxes(title="share of controls that were right", range=[0, 1.05])
    return figure


def degradation_figure(points: Sequence[CurvePoint], *, title: str, unit: str) -> go.Figure:
    """Stacked bars by level: right, inconclusive or another verdict; a row for each half, a column for each task kind.

    Args:
        points: The points of a curve.
        title: What the level is.
        unit: The level's unit.

    Returns:
        The figure, with what the most frequent truth alone would score as the chance line.
    """
    families = [family for family in FAMILY_NAMES if any(point.family == family for point in points)]
    panels = [(half, family) for half in HALVES for family in families]
    figure = make_subplots(
        rows=len(HALVES),
        cols=len(families),
        subplot_titles=[f"{FAMILY_NAMES[family]}, {HALF_NAMES[half]}" for half, family in panels],
        vertical_spacing=0.2,
    )
    parts = (("right", GREEN), ("inconclusive", PALE), ("other", ORANGE))
    for place, (half, family) in enumerate(panels):
        row, column = divmod(place, len(families))
        of_panel = [point for point in points if (point.half, point.family) == (half, family)]
        labels = [f"{'all' if p.level is None else f'{p.level:g}'}<br>n = {p.right.n}" for p in of_panel]
        for name, colour in parts:
            rates: list[Rate] = [getattr(point, name) for point in of_panel]
            bar = go.Bar(
                x=labels,
                y=[rate.value for rate in rates],
                error_y=_error_bars(rates) if name == "right" else None,
                name={"right": "right (95 % Wilson)", "other": "another verdict"}.get(name, name),
                marker_color=colour,
                showlegend=place == 0,
                hovertemplate="%{x}: %{y:.3f}<extra>" + name + "</extra>",
            )
            figure.add_trace(bar, row=row + 1, col=column + 1)
        chance = go.Scatter(
            x=labels,
            y=[point.chance for point in of_panel],
            mode="lines",
            name="chance: always the most frequent truth",
            line={"color": "black", "dash": "dot"},
            showlegend=place == 0,
        )
        figure.add_trace(chance, row=row + 1, col=column + 1)
    figure.update_layout(barmode="stack", title=wrapped(title), height=720, width=1100, **LAYOUT)
    figure.update_xaxes(type="category")
    figure.update_xaxes(title=unit, row=len(HALVES))
    figure.update_yaxes(title="share of controls", range=[0, 1.05])
    return figure


def threshold_figure(scans: Sequence[ThresholdScan]) -> go.Figure:
    """Macro-F1 of the development half as each threshold moves; its plateau shaded, the value in use a line."""
    n_rows = -(-len(scans) // _N_THRESHOLD_COLUMNS)
    figure = make_subplots(
        rows=max(n_rows, 1),
        cols=_N_THRESHOLD_COLUMNS,
        subplot_titles=[f"{_words(scan.family)}: {_words(scan.threshold)}" for scan in scans],
        vertical_spacing=0.5 / max(n_rows, 2),
    )
    for place, scan in enumerate(scans):
        row, column = place // _N_THRESHOLD_COLUMNS + 1, place % _N_THRESHOLD_COLUMNS + 1
        line = go.Scatter(
            x=scan.values,
            y=scan.f1,
            mode="lines",
            line={"color": ORANGE, "shape": "hv"},
            showlegend=False,
            hovertemplate="%{x:.3f}: %{y:.3f}<extra></extra>",
        )
        figure.add_trace(line, row=row, col=column)
        best = {"x0": scan.best_low, "x1": scan.best_high, "y0": 0, "y1": 1.02, "fillcolor": GREEN, "opacity": 0.2}
        figure.add_shape(type="rect", line={"width": 0}, row=row, col=column, **best)
        used = {"x0": scan.in_use, "x1": scan.in_use, "y0": 0, "y1": 1.02}
        figure.add_shape(type="line", line={"color": BLUE, "dash": "dash"}, row=row, col=column, **used)
    counts = ", ".join(
        f"{FAMILY_NAMES[family]} n = {next(s.n for s in scans if s.family == family)}"
        for family in dict.fromkeys(scan.family for scan in scans)
    )
    figure.update_layout(
        title=wrapped(
            f"One threshold moved, development half ({counts}): green is best, the dashed line is the value in use"
        ),
        height=140 + 220 * n_rows,
        width=1100,
        margin={"t": 110},
        **LAYOUT,
    )
    figure.update_xaxes(title="threshold (share)", range=[0, 1])
    figure.update_yaxes(range=[0, 1.02])
    figure.update_yaxes(title="macro-F1", col=1)
    return figure


def calibration_figures(calibration: Calibration) -> dict[str, go.Figure]:
    """Every figure of a calibration, by the name of its file."""
    figures = {
        "confusion": confusion_figure(calibration.known_answer, title="Wired and untrained controls"),
        "reliability": reliability_figure(calibration.known_answer),
        "thresholds": threshold_figure(calibration.thresholds),
    }
    if calibration.trained:
        figures["confusion_trained"] = confusion_figure(calibration.trained, title="Trained controls")
    if calibration.noise:
        figures["noise"] = degradation_figure(
            calibration.noise,
            title="Verdicts against noise on the weights, compared with the untouched net's truth",
            unit="noise (std, share of the matrix's own)",
        )
    if calibration.queries:
        figures["queries"] = degradation_figure(
            calibration.queries,
            title="Verdicts against the number of queries read",
            unit="queries read of each split at most",
        )
    return figures


def _error_bars(rates: Sequence[Rate]) -> dict:
    """Asymmetric error bars of shares with their intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [rate.high - rate.value for rate in rates],
        "arrayminus": [rate.value - rate.low for rate in rates],
        "thickness": 1,
    }


def _half_title(scores: HalfScores) -> str:
    f1 = scores.macro_f1
    return (
        f"{HALF_NAMES[scores.half]}: n = {f1.n}, {scores.n_families} families<br>"
        f"macro-F1 {f1.value:.3f} [{f1.low:.3f}, {f1.high:.3f}]"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
