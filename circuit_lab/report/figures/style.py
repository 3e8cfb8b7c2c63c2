"""What the figures share: palette, layout, heat maps."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

# Okabe and Ito's palette, told apart by the colour-blind.
GREEN, ORANGE, BLUE, SKY, PINK, GREY, PALE = (
    "#009E73",
    "#E69F00",
    "#0072B2",
    "#56B4E9",
    "#CC79A7",
    "#999999",
    "#DDDDDD",
)
LINE_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY)
LAYOUT = {
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "paper_bgcolor": "white",
    "plot_bgcolor": "white",
}
SHARE_SCALE, SIGNED_SCALE = "Cividis", "RdBu"


_TITLE_COLUMNS = 92
"""Characters of a title in a line of 1,000 pixels."""


def wrapped(title: str, columns: int = _TITLE_COLUMNS) -> str:
    """The title in lines of at most so many characters; by default such that fit a notebook's width.

    >>> wrapped("above<br>below"), wrapped("one two", 4)
    ('above<br>below', 'one<br>two')
    """
    return "<br>".join(line for part in title.split("<br>") for line in textwrap.wrap(part, columns))


def layer_in_words(name: str) -> str:
    """A layer's name in a title or label: "layer" and its number, or a recursive net's step as it is.

    >>> layer_in_words("0"), layer_in_words("H0.commit")
    ('layer 0', 'H0.commit')
    """
    return f"layer {name}" if name.isdecimal() else name


def heat_map(
    values: np.ndarray,
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    unit: str = "share",
    limits: tuple[float, float] | None = (0.0, 1.0),
    hover: np.ndarray | None = None,
) -> go.Figure:
    """A heat map with the value in each cell; the first row is at the bottom, as layers are drawn.

    Args:
        values: One value per row and column.
        columns: Names of the columns.
        rows: Names of the rows.
        unit: What the colour bar is labelled with.
        limits: Ends of the colour scale; None for a scale symmetric about 0, in a diverging palette.
        hover: A further line of hover text per cell, such as an interval.

    Returns:
        The figure.
    """
    signed = limits is None
    largest = float(np.nanmax(np.abs(values))) if values.size else 1.0
    low, high = (-largest, largest) if limits is None else limits
    trace: dict[str, Any] = {} if hover is None else {"customdata": hover}
    extra = "" if hover is None else "<br>%{customdata}"
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=list(columns),
            y=list(rows),
            zmin=low,
            zmax=high,
            colorscale=SIGNED_SCALE if signed else SHARE_SCALE,
            texttemplate="%{z:.2f}",
            hovertemplate="%{y} @ %{x}: %{z:.3f}" + extra + "<extra></extra>",
            colorbar={"title": unit},
            **trace,
        )
    )
    figure.update_layout(height=160 + 40 * len(rows), **LAYOUT)
    return figure


def rows_where(frame: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The rows of a table whose columns have these values."""
    keep = np.logical_and.reduce([frame[column] == value for column, value in values.items()])
    return pd.DataFrame(frame[keep])


def interval_text(rows: pd.DataFrame) -> list[str]:
    """The interval of each row, from its columns `low` and `high`, for hover text."""
    return [f"[{low:.3f}, {high:.3f}]" for low, high in zip(rows["low"], rows["high"], strict=True)]
