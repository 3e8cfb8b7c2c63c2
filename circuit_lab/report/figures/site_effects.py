"""Figure of the three causal tests by site: what transplants do at every stage and position."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import BLUE, GREEN, GREY, LAYOUT, ORANGE, wrapped

_TESTS = {
    "hop1": ("hop 1", GREEN, "circle", 0.26),
    "hop2": ("hop 2", BLUE, "square", 0.0),
    "interchange": ("interchange", ORANGE, "diamond", -0.26),
}
"""Name, colour and marker of each test, and how far above its stage's line it stands."""

Row = dict[Any, Any]
"""A row of `TwoHopExhibits.site_effects`."""


def site_effects_figure(effects: pd.DataFrame, *, split: str) -> go.Figure:
    """Dots with intervals: share of queries that pass each test, by stage (up) and position (across).

    Args:
        effects: Rows of `TwoHopExhibits.site_effects`; those of the split are drawn.
        split: Which queries.

    Returns:
        The figure: a panel per position. A short upright line is the test's control; located sites are shaded.

    Raises:
        ValueError: If there are no rows of the split.
    """
    shown = effects.query("split == @split").to_dict("records")
    if not shown:
        raise ValueError(
            f"no site effects on {split!r}; there are some on {', '.join(dict.fromkeys(effects['split']))}"
        )
    stages, positions = (list(dict.fromkeys(row[axis] for row in shown)) for axis in ("stage", "position"))
    figure = make_subplots(cols=len(positions), subplot_titles=positions, shared_yaxes=True, horizontal_spacing=0.04)
    traces, columns, bands = [], [], []
    for column, position in enumerate(positions, start=1):
        here = [row for row in shown if row["position"] == position]
        of_tests = [[row for row in here if row["test"] == test] for test in _TESTS]
        drawn = [_rates(rows, stages, legend=column == 1) for rows in of_tests if rows]
        traces += [*drawn, _controls(here, stages, legend=column == 1)]
        columns += [column] * (len(drawn) + 1)
        located = dict.fromkeys(row["stage"] for row in here if row["located"])
        bands += [_band(stages.index(stage), column) for stage in located]
    figure.add_traces(traces, rows=[1] * len(traces), cols=columns)
    ns = sorted({row["n"] for row in shown})
    figure.update_layout(
        title=wrapped(
            f"Transplants at every site on {split}: share of queries that pass, with 95 % intervals "
            f"(n = {' to '.join(map(str, ns[:1] + ns[1:][-1:]))}), and control; shaded: located"
        ),
        shapes=bands,
        height=240 + 60 * len(stages),
        legend={"orientation": "h", "x": 0, "y": -0.25, "yanchor": "top"},
        **LAYOUT,
    )
    figure.update_xaxes(range=[-0.08, 1.08], tickvals=[0, 0.5, 1], ticktext=["0", ".5", "1"], zeroline=False)
    figure.update_xaxes(title="share", col=(len(positions) + 1) // 2)
    figure.update_yaxes(
        range=[-0.55, len(stages) - 0.45],
        tickvals=list(range(len(stages))),
        ticktext=[stage.replace(" & ", "<br>& ") for stage in stages],
        showgrid=False,
        zeroline=False,
    )
    return figure


def _rates(rows: Sequence[Row], stages: list[str], *, legend: bool) -> go.Scatter:
    """One test at one position, with n, interval and control on hover."""
    first = rows[0]
    name, colour, symbol, _ = _TESTS[first["test"]]
    return go.Scatter(
        name=name,
        x=[row["rate"] for row in rows],
        y=_heights(rows, stages),
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 9},
        error_x={
            "array": [row["high"] - row["rate"] for row in rows],
            "arrayminus": [row["rate"] - row["low"] for row in rows],
            "thickness": 1.5,
            "width": 0,
        },
        customdata=[[row[key] for key in ("stage", "low", "high", "control")] for row in rows],
        hovertemplate=(
            f"{name} at %{{customdata[0]}} @ {first['position']}: %{{x:.3f}}"
            "<br>95 % interval %{customdata[1]:.3f} to %{customdata[2]:.3f}; control %{customdata[3]:.3f}"
            f"<br>n = {first['n']} queries, {first['n_transplants']} transplants<extra></extra>"
        ),
        legendgroup=first["test"],
        showlegend=legend,
    )


def _controls(rows: Sequence[Row], stages: list[str], *, legend: bool) -> go.Scatter:
    """The controls of all tests at one position."""
    return go.Scatter(
        name="its control",
        x=[row["control"] for row in rows],
        y=_heights(rows, stages),
        mode="markers",
        marker={
            "color": [_TESTS[row["test"]][1] for row in rows],
            "symbol": "line-ns-open",
            "size": 13,
            "line": {"width": 2},
        },
        hovertemplate="control: %{x:.3f} of the transplants<extra></extra>",
        legendgroup="control",
        showlegend=legend,
    )


def _heights(rows: Sequence[Row], stages: list[str]) -> list[float]:
    """Where the rows stand: at their stage, a little apart by test."""
    return [stages.index(row["stage"]) + _TESTS[row["test"]][3] for row in rows]


def _band(stage: int, column: int) -> dict[str, Any]:
    """The shade of a located site."""
    axis = "" if column == 1 else str(column)
    ends = {"x0": -0.08, "x1": 1.08, "y0": stage - 0.5, "y1": stage + 0.5}
    return {"type": "rect", "layer": "below", "line": {"width": 0}, "fillcolor": GREY, "opacity": 0.25} | {
        **ends,
        "xref": f"x{axis}",
        "yref": f"y{axis}",
    }
