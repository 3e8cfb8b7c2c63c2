"""The bridge's geometry: cosines of states with the same bridge and with others."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.measures.readings.geometry import CENTRINGS, BridgeGeometry
from circuit_lab.report.figures.style import LAYOUT, LINE_COLOURS, interval_text, rows_where, wrapped

PAIR_DASHES = {"within": "solid", "between": "dash", "shuffled": "dot"}


def geometry_figure(geometry: BridgeGeometry, *, states: str = "centred") -> go.Figure:
    """Lines: cosine similarity by stage, a panel for each position, within and between bridges and shuffled.

    Args:
        geometry: The result.
        states: "centred" or "raw".

    Returns:
        The figure.

    Raises:
        ValueError: If there are no such states.
    """
    if states not in CENTRINGS:
        raise ValueError(f"states must be one of {', '.join(CENTRINGS)}, got {states!r}")
    frame = rows_where(geometry.frame(), states=states)
    positions = geometry.position_names
    figure = make_subplots(cols=len(positions), subplot_titles=list(positions), shared_yaxes=True)
    for column, position in enumerate(positions, start=1):
        for index, (split_a, split_b) in enumerate(geometry.split_pairs):
            colour = LINE_COLOURS[index % len(LINE_COLOURS)]
            for kind, dash in PAIR_DASHES.items():
                rows = rows_where(frame, position=position, split_a=split_a, split_b=split_b, pairs=kind)
                name = f"{kind}, {split_a} x {split_b} ({int(geometry.n_bridges[index])} bridges)"
                line = go.Scatter(
                    name=name,
                    x=list(geometry.stages),
                    y=rows["cosine"],
                    mode="lines",
                    line={"color": colour, "dash": dash},
                    legendgroup=name,
                    showlegend=column == 1,
                    customdata=interval_text(rows),
                    hovertemplate="%{x}: %{y:.3f} %{customdata}<extra>" + name + "</extra>",
                )
                figure.add_traces([_band(rows, geometry.stages, colour, name), line], rows=1, cols=column)
    figure.update_layout(
        title=wrapped(
            f"Cosine similarity of {states} states, same bridge (another first-hop fact) or not; "
            "bands: 95 % over bridges; corroborates only"
        ),
        height=460,
        **LAYOUT,
    )
    figure.update_xaxes(title="stage", categoryorder="array", categoryarray=list(geometry.stages))
    figure.update_yaxes(title="cosine", row=1, col=1)
    return figure


def _band(rows: pd.DataFrame, stages: tuple[str, ...], colour: str, group: str) -> go.Scatter:
    """The interval as a shaded band."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*stages, *reversed(stages)],
        y=[*rows["high"], *reversed(list(rows["low"]))],
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.15)",
        line={"width": 0},
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
    )
