"""Figure of a run: verdicts, phases and every quantity by step, with the crossings marked.

All panels share one x axis, so that pointing at a step shows what every panel has there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from circuit_lab.report.figures.style import BLUE, GREEN, GREY, LAYOUT, LINE_COLOURS, ORANGE, PINK, SKY, wrapped
from circuit_lab.verdict import Verdict
from circuit_lab.verdict.runs import Crossing, Phase, RunDiagnosis, TimelinePoint
from circuit_lab.verdict.runs import quantities as q

_MIN_LOG_SPAN = 100
"""Steps are drawn in log scale when the last is this many times the first: what is learnt early would be invisible."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
VERDICT_MARKS: Mapping[Verdict, tuple[str, str]] = {
    Verdict.UNTRAINED: (GREY, "circle-open"),
    Verdict.MEMORISING: (ORANGE, "square"),
    Verdict.ID_CIRCUIT: (SKY, "diamond"),
    Verdict.FIRST_HOP_FAILURE: (SKY, "triangle-down"),
    Verdict.SECOND_HOP_FAILURE: (BLUE, "triangle-up"),
    Verdict.FAKE_GROKKING: (PINK, "x"),
    Verdict.TRUE_CIRCUIT: (GREEN, "star"),
    Verdict.SEMI_GROKKED: (BLUE, "hexagon"),
    Verdict.UNGROKKED: (PINK, "cross"),
    Verdict.INCONCLUSIVE: (GREY, "circle"),
}
"""Colour and symbol of each verdict."""
_PANELS: Mapping[str, tuple[str, ...]] = {
    "accuracy (share)": (q.TRAINING, q.ID, q.OOD, q.HELD_OUT),
    "hops (share)": (q.HOP1_ID, q.HOP2_ID, q.HOP1_OOD, q.HOP2_OOD),
    "circuit (share)": (q.MEDIATION_TRAINING, q.MEDIATION_ID, q.MEDIATION_OOD, q.EXPLAINED, q.CIRCUIT),
}
"""Quantities of one unit that have panels of their own; all others share a panel with those of their unit."""
_PANEL_HEIGHT, _STRIP_ROW_HEIGHT, _GAP = 200, 34, 78
"""Pixels; a gap holds the legend of the panel below it, in up to four lines where the page is narrow."""
_MARGIN = {"t": 160, "b": 60, "l": 10, "r": 10}
_ANYWHERE = -1
"""No pixel is too far from a checkpoint to show it on hover."""
_LEGEND = {
    "font": {"size": 11},
    "bgcolor": "rgba(0,0,0,0)",
    "orientation": "h",
    "traceorder": "normal",
    "x": 0,
    "yanchor": "bottom",
}
_CLOSE = 0.08
"""Of two thresholds closer than this, the lower is named below its line."""


def run_timeline_figure(run: RunDiagnosis) -> go.Figure:
    """Verdicts and phases on top, then lines: every quantity of a run by step, in panels, with 95 % bands.

    A star marks where a quantity first crossed a threshold and its bar the steps between which it certainly did; a
    dotted line is a threshold. Pointing at a step shows value, interval and n of every quantity, and the verdict.

    Args:
        run: The diagnosis of a run.

    Returns:
        The figure.
    """
    quantities = {name: [p for p in run.timeline if p.quantity == name] for name in _names(run.timeline)}
    panel_of = {name: _panel(points[0]) for name, points in quantities.items()}
    in_order = [*_PANELS, *(panel for panel in panel_of.values() if panel not in _PANELS)]
    panels = [panel for panel in dict.fromkeys(in_order) if panel in panel_of.values()]
    figure = go.Figure([*_verdict_marks(run), *_phase_bars(run), _verdict_hover(run)])
    for row, panel in enumerate(panels, start=_FIRST_PANEL):
        names = [name for name in quantities if panel_of[name] == panel]
        for number, name in enumerate(names):
            colour, symbol = LINE_COLOURS[number % len(LINE_COLOURS)], _SYMBOLS[number % len(_SYMBOLS)]
            for trace in _quantity_traces(run, quantities[name], colour, symbol):
                figure.add_trace(trace.update(yaxis=f"y{row}", legend=f"legend{row}"))
        _add_thresholds(figure, [c for c in run.crossings if c.quantity in names], row)
    _lay_out(figure, run, panels)
    return figure


_FIRST_PANEL = 2
"""Number of the y axis of the first panel of lines; the strip of verdicts and phases has the first."""


def _panel(point: TimelinePoint) -> str:
    """Title of the panel that a quantity stands in."""
    return next((title for title, names in _PANELS.items() if point.quantity in names), point.unit)


def _verdict_marks(run: RunDiagnosis) -> list[go.Scatter]:
    """A mark for the verdict at each checkpoint, one trace for each verdict that occurs."""
    traces = []
    for verdict, (colour, symbol) in VERDICT_MARKS.items():
        those = [v for v in run.verdicts if v.verdict == verdict]
        if those:
            traces.append(
                go.Scatter(
                    name=str(verdict).replace("_", " "),
                    x=[v.step for v in those],
                    y=["verdict"] * len(those),
                    mode="markers",
                    marker={"color": colour, "symbol": symbol, "size": 11},
                    hoverinfo="skip",
                )
            )
    return traces


def _phases(run: RunDiagnosis) -> dict[str, Phase]:
    """The phases that were seen, by their label in the strip."""
    phases = {
        "memorisation": run.phases.memorisation,
        "circuit<br>formation": run.phases.circuit_formation,
        "clean-up": run.phases.clean_up,
    }
    return {name: phase for name, phase in phases.items() if phase is not None}


def _phase_bars(run: RunDiagnosis) -> list[go.Scatter]:
    """A bar for each phase; dotted where its end is not in the run."""
    return [
        go.Scatter(
            x=[phase.start, phase.end],
            y=[name] * 2,
            mode="lines",
            line={"color": GREY, "width": 10, "dash": "solid" if phase.ended else "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
        for name, phase in _phases(run).items()
    ]


def _verdict_hover(run: RunDiagnosis) -> go.Scatter:
    """What the strip says on hover of each checkpoint: its verdict, and the phases it lies in."""
    words = []
    for v in run.verdicts:
        lines = [f"{v.verdict.replace('_', ' ')} (confidence {v.confidence:.2f})"]
        lines += [
            f"{name.replace('<br>', ' ')}, steps {phase.start} to {phase.end}{'' if phase.ended else ' or later'}: "
            f"{phase.words}"
            for name, phase in _phases(run).items()
            if phase.start <= v.step <= phase.end
        ]
        words.append("<br>".join(lines))
    steps = {v.step: "verdict" for v in run.verdicts}
    return _hover_points("verdict", list(steps), list(steps.values()), words)


def _hover_points(name: str, x: Sequence[int], y: Sequence[Any], words: Sequence[str]) -> go.Scatter:
    """Invisible points that say something on hover."""
    return go.Scatter(
        name=name,
        x=list(x),
        y=list(y),
        mode="markers",
        marker={"opacity": 0},
        customdata=list(words),
        hovertemplate="%{customdata}<extra>" + name + "</extra>",
        showlegend=False,
    )


def _names(points: Sequence[TimelinePoint]) -> list[str]:
    return list(dict.fromkeys(point.quantity for point in points))


def _quantity_traces(
    run: RunDiagnosis, points: Sequence[TimelinePoint], colour: str, symbol: str
) -> Iterator[go.Scatter]:
    """The band, line and stars of a quantity, and its words on hover at every checkpoint."""
    name, steps = points[0].quantity, [v.step for v in run.verdicts]
    crossings = [c for c in run.crossings if c.quantity == name and c.step is not None]
    words = {point.step: _hover(point, crossings) for point in points}
    complete = all(point.value is not None for point in points) and {*steps} <= words.keys()
    if any(p.low is not None for p in points):
        yield _band(name, points, colour)
    line = go.Scatter(
        name=name,
        legendgroup=name,
        x=[point.step for point in points],
        y=[point.value for point in points],
        mode="lines+markers",
        line={"color": colour},
        marker={"symbol": symbol, "size": 6},
    )
    if complete:
        yield line.update(customdata=list(words.values()), hovertemplate="%{customdata}<extra>" + name + "</extra>")
    else:
        # A step without a value has no point to show on hover: that of another step would be shown in its place.
        value = {point.step: point.value for point in points if point.value is not None}
        somewhere = next(iter(value.values()), 0.0)
        yield line.update(hoverinfo="skip")
        yield _hover_points(
            name, steps, [value.get(s, somewhere) for s in steps], [words.get(s, _NOTHING) for s in steps]
        ).update(marker_color=colour)
    yield from (_mark(crossing, points, colour) for crossing in crossings)


_NOTHING = "nothing to measure"


def _hover(point: TimelinePoint, crossings: Sequence[Crossing]) -> str:
    """Value, interval and n, and what was reached at this step."""
    if point.value is None:
        return _NOTHING
    interval = "" if point.low is None or point.high is None else f" [{point.low:.3f}, {point.high:.3f}]"
    reached = [f"<br>{c.level} (threshold {c.threshold:.2f}): {c.when()}" for c in crossings if c.step == point.step]
    return f"{point.value:.3f}{interval}, n = {point.n}{''.join(reached)}"


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
        hoverinfo="skip",
        showlegend=False,
    )


def _add_thresholds(figure: go.Figure, crossings: Sequence[Crossing], row: int) -> None:
    """A dotted line for each threshold of a panel, with what reaching it means."""
    meanings: dict[float, list[str]] = {}
    for crossing in crossings:
        names = meanings.setdefault(crossing.threshold, [])
        names += [crossing.level] if crossing.level not in names else []
    for threshold, names in meanings.items():
        across = {"xref": "x domain", "yref": f"y{row}"}
        figure.add_shape(
            type="line",
            x0=0,
            x1=1,
            y0=threshold,
            y1=threshold,
            line={"dash": "dot", "width": 1, "color": GREY},
            **across,
        )
        figure.add_annotation(
            x=1,
            y=threshold,
            text=f"{threshold:.2f} {', '.join(names)}",
            font_size=10,
            xanchor="right",
            yanchor="top" if any(0 < other - threshold < _CLOSE for other in meanings) else "bottom",
            showarrow=False,
            **across,
        )


def _lay_out(figure: go.Figure, run: RunDiagnosis, panels: Sequence[str]) -> None:
    steps = [verdict.step for verdict in run.verdicts]
    log = steps[0] > 0 and steps[-1] >= _MIN_LOG_SPAN * steps[0]
    strip_rows = ["verdict", *_phases(run)]
    heights = [_STRIP_ROW_HEIGHT * len(strip_rows), *[_PANEL_HEIGHT] * len(panels)]
    total = sum(heights) + _GAP * len(panels)
    figure.update_layout(
        title=wrapped(
            f"{run.source}, {len(steps)} checkpoints: {run.circuit_came_first.question}<br>"
            f"{run.circuit_came_first.words}"
        ),
        height=total + _MARGIN["t"] + _MARGIN["b"],
        margin=_MARGIN,
        hovermode="x unified",
        hoversubplots="axis",
        hoverdistance=_ANYWHERE,
        xaxis={
            "type": "log" if log else "linear",
            "title": "training step",
            "anchor": f"y{len(panels) + 1}" if panels else "y",
            "unifiedhovertitle": {"text": "step %{x}"},
        },
        **LAYOUT,
    )
    top = float(total)
    for row, (title, height) in enumerate(zip(["", *panels], heights, strict=True), start=1):
        domain, number = [max(top - height, 0) / total, top / total], row if row > 1 else ""
        legend = _LEGEND | {"y": domain[1] + 4 / total}
        figure.update_layout({f"yaxis{number}": _y_axis(title, domain, strip_rows), f"legend{number}": legend})
        top -= height + _GAP


def _y_axis(title: str, domain: list[float], strip_rows: Sequence[str]) -> dict[str, Any]:
    """The y axis of a panel, or of the strip, which has no title."""
    axis: dict[str, Any] = {"title": {"text": title}, "domain": domain, "anchor": "x", "automargin": True}
    if title == "":
        rows = list(reversed(strip_rows))
        return axis | {"type": "category", "categoryarray": rows, "range": [-0.6, len(rows) - 0.4], "fixedrange": True}
    return axis | ({"range": [-0.02, 1.05]} if title in _PANELS or title == "share" else {})
