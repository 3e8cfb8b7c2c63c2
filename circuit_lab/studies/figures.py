"""Figures that several studies draw."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, wrapped
from circuit_lab.studies.timeline import series

_COLOURS = (*LINE_COLOURS, "#000000")
_PANEL_HEIGHT, _MARGINS = 260, 200


def timeline_panels(
    rows: pd.DataFrame,
    conditions: Sequence[str],
    lines: Sequence[tuple[str, str, str]],
    *,
    title: str,
    n_cols: int = 1,
) -> go.Figure:
    """Shares against optimiser steps, a panel for each condition: the mean over seeds (bold) and each seed (thin).

    Args:
        rows: Measurements, with the columns of `COLUMNS`.
        conditions: What is shown, in order, row by row.
        lines: The quantity, split and name of each line.
        title: What is shown; the number of seeds is added.
        n_cols: Panels side by side.

    Returns:
        The figure.
    """
    n_rows = -(-len(conditions) // n_cols)
    figure = make_subplots(
        rows=n_rows,
        cols=n_cols,
        shared_xaxes=n_cols == 1,
        subplot_titles=list(conditions),
        vertical_spacing=(0.2 if n_cols == 1 else 0.3) / n_rows,
        horizontal_spacing=0.08,
    )
    for place, condition in enumerate(conditions):
        row, col = (index + 1 for index in divmod(place, n_cols))
        for colour, (quantity, split, name) in zip(cycle(_COLOURS), lines, strict=False):
            style = {"legendgroup": name, "name": name, "row": row, "col": col}
            shares = series(rows, condition, quantity, split)
            add_mean_and_seeds(figure, shares, colour=colour, showlegend=place == 0, **style)
        figure.update_yaxes(title_text="share", range=[-0.03, 1.03], row=row, col=col)
        if place >= len(conditions) - n_cols:
            figure.update_xaxes(title_text="optimiser steps", row=row, col=col)
    title = wrapped(f"{title}: mean of {rows['seed'].nunique()} seeds (bold) and each seed")
    width = 1000 if n_cols == 1 else 1100
    figure.update_layout(title=title, height=_PANEL_HEIGHT * n_rows + _MARGINS, width=width, **LAYOUT)
    return figure


def add_mean_and_seeds(figure: go.Figure, points: pd.DataFrame, *, colour: str, showlegend: bool, **style: Any) -> None:
    """Add a quantity against steps to a figure: the mean over seeds (bold) and each seed (thin).

    Args:
        figure: Is added to.
        points: Rows with `step`, `seed` and `value`.
        colour: Of all its lines.
        showlegend: Whether the bold one stands in the legend.
        **style: Of all its lines, and where they go: name, legend group, row, column.
    """
    for _, of_seed in points.groupby("seed"):
        thin = {"line": {"width": 0.8, "color": colour}, "opacity": 0.4, "showlegend": False}
        figure.add_scatter(x=of_seed["step"], y=of_seed["value"], mode="lines", hoverinfo="skip", **thin, **style)
    mean = pd.Series(points.groupby("step")["value"].mean())
    bold = {"line": {"width": 2.5, "color": colour}, "showlegend": showlegend}
    figure.add_scatter(x=mean.index, y=mean, mode="lines", **bold, **style)
