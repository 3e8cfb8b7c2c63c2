"""Figure of a run: its timeline, with the crossings marked."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.verdict.runs import Crossing, RunDiagnosis, TimelinePoint

_MIN_LOG_SPAN = 100
"""Steps are drawn in log scale when the last is this many times the first: what is learnt early would be invisible."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")


def run_timeline_figure(run: RunDiagnosis) -> go.Figure:
    """Lines: every quantity of a run by step, one panel for each unit, with 95 % bands.

    A star marks where a quantity first crossed a threshold and its bar the steps between which it certainly did; a
    dotted line is a threshold. Hover for value, interval and n.

    Args:
        run: The diagnosis of a run.

    Returns:
        The figure.
    """
    quantities = {name: [p for p in run.timeline if p.quantity == name] for name in _names(run.timeline)}
    units = list(dict.fromkeys(points[0].unit for points in quantities.values()))
    figure = make_subplots(rows=len(units), shared_xaxes=True, vertical_spacing=0.06)
    place = dict.fromkeys(units, 0)
    for name, points in quantities.items():
        unit = points[0].unit
        number = place[unit]
        colour, symbol = LINE_COLOURS[number % len(LINE_COLOURS)], _SYMBOLS[number % len(_SYMBOLS)]
        place[unit] += 1
        row = units.index(unit) + 1
        if any(p.low is not None for p in points):
            figure.add_trace(_band(name, points, colour), row=row, col=1)
        figure.add_trace(_line(name, points, colour, symbol), row=row, col=1)
        for crossing in run.crossings:
            if crossing.quantity == name and crossing.step is not None:
                figure.add_trace(_mark(crossing, points, colour), row=row, col=1)
    _add_thresholds(figure, run, {name: units.index(points[0].unit) + 1 for name, points in quantities.items()})
    _lay_out(figure, run, units)
    return figure


def _names(points: Sequence[TimelinePoint]) -> list[str]:
    return list(dict.fromkeys(point.quantity for point in points))


def _line(name: str, points: Sequence[TimelinePoint], colour: str, symbol: str) -> go.Scatter:
    hover = [_hover(point) for point in points]
    return go.Scatter(
        name=name,
        legendgroup=name,
        x=[point.step for point in points],
        y=[point.value for point in points],
        mode="lines+markers",
        line={"color": colour},
        marker={"symbol": symbol, "size": 6},
        customdata=hover,
        hovertemplate="step %{x}: %{customdata}<extra>" + name + "</extra>",
    )


def _hover(point: TimelinePoint) -> str:
    if point.value is None:
        return "nothing to measure"
    interval = "" if point.low is None or point.high is None else f" [{point.low:.3f}, {point.high:.3f}]"
    return f"{point.value:.3f}{interval}, n = {point.n}"


def _band(name: str, points: Sequence[TimelinePoint], colour: str) -> go.Scatter:
    """The intervals as one closed area."""
    drawn = [point for point in points if point.value is not None and point.low is not None]
    there, back = [p.step for p in drawn], [p.step for p in reversed(drawn)]
    return go.Scatter(
        legendgroup=name,
        x=there + back,
        y=[p.low for p in drawn] + [p.high for p in reversed(drawn)],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        hoverinfo="skip",
        showlegend=False,
    )


def _mark(crossing: Crossing, points: Sequence[TimelinePoint], colour: str) -> go.Scatter:
    """A star at the threshold, with a bar from `after` to `by`; an open end reaches to the end of the run."""
    assert crossing.step is not None, "only what was reached is marked"
    after = points[0].step if crossing.after is None else crossing.after
    by = points[-1].step if crossing.by is None else crossing.by
    return go.Scatter(
        legendgroup=crossing.quantity,
        x=[crossing.step],
        y=[crossing.threshold],
        error_x={"array": [by - crossing.step], "arrayminus": [crossing.step - after], "color": colour},
        mode="markers",
        marker={"symbol": "star" if crossing.by is not None else "star-open", "size": 12, "color": colour},
        customdata=[f"{crossing.level} (threshold {crossing.threshold:.2f}): {crossing.when()}"],
        hovertemplate="%{customdata}<extra>" + crossing.quantity + "</extra>",
        showlegend=False,
    )


def _add_thresholds(figure: go.Figure, run: RunDiagnosis, row_of: dict[str, int]) -> None:
    """A dotted line for each threshold, once for each panel, with what reaching it means."""
    meanings: dict[tuple[int, float], list[str]] = {}
    for crossing in run.crossings:
        if crossing.quantity in row_of:
            names = meanings.setdefault((row_of[crossing.quantity], crossing.threshold), [])
            names += [crossing.level] if crossing.level not in names else []
    for (row, threshold), names in meanings.items():
        figure.add_hline(
            y=threshold,
            line_dash="dot",
            line_width=1,
            annotation_text=f"{threshold:.2f} {', '.join(names)}",
            annotation_font_size=10,
            row=row,  # type: ignore[arg-type]
            col=1,  # type: ignore[arg-type]
        )


def _lay_out(figure: go.Figure, run: RunDiagnosis, units: Sequence[str]) -> None:
    steps = [verdict.step for verdict in run.verdicts]
    log = steps[0] > 0 and steps[-1] >= _MIN_LOG_SPAN * steps[0]
    figure.update_layout(
        title=wrapped(
            f"{run.source}, {len(steps)} checkpoints: {run.circuit_came_first.question}<br>"
            f"{run.circuit_came_first.words}"
        ),
        height=220 + 260 * len(units),
        margin={"t": 140},
        **LAYOUT,
    )
    figure.update_xaxes(type="log" if log else "linear")
    figure.update_xaxes(title="training step", row=len(units), col=1)
    for row, unit in enumerate(units, start=1):
        figure.update_yaxes(title=unit, row=row, col=1, range=[-0.02, 1.05] if unit == "share" else None)
