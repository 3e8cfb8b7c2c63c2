"""Figures of path patching and attribution patching: edges, nodes, and estimates beside exact effects."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from circuit_lab.measures.attribution.attribution_agreement import ALL_CELLS, Agreement
from circuit_lab.measures.attribution.attribution_patching import NODE_AXES, NodeAttribution
from circuit_lab.measures.attribution.edge_attribution import EdgeAttribution
from circuit_lab.measures.attribution.edges import ALL_POSITIONS, Edge
from circuit_lab.measures.attribution.path_patching import PathPatching
from circuit_lab.measures.metrics import METRIC_UNITS
from circuit_lab.report.figures.style import GREY, LAYOUT, LINE_COLOURS, heat_map, wrapped

_MOST_CELLS_WITH_TEXT = 150


def path_patching_figure(
    result: PathPatching, *, metric: str = "logit_diff", position: str = ALL_POSITIONS
) -> go.Figure:
    """Heat map: mean effect of patching each edge, writers by readers; blank where there is no edge.

    Args:
        result: Path patching of single edges.
        metric: One of `METRICS`.
        position: One of the result's positions.

    Returns:
        The figure.

    Raises:
        ValueError: If sets of edges were patched, or the position is not in the result.
    """
    if any(len(edges) != 1 for edges in result.edges.values()):
        raise ValueError("the figure shows single edges; this result has sets of edges, see its frame()")
    edges = [edge for (edge,) in result.edges.values()]
    figure = _edge_map(edges, result.frame().query("metric == @metric"), result.position_names, position, metric)
    title = f"Path patching, {result.direction}, corruption {result.corruption}"
    return figure.update_layout(title=wrapped(f"{title}: effect on {_named(metric)} (n = {result.values.shape[-1]})"))


def edge_attribution_figure(result: EdgeAttribution, *, position: str = ALL_POSITIONS) -> go.Figure:
    """Heat map: mean estimated effect of patching each edge, writers by readers; blank where there is no edge.

    Args:
        result: Attribution patching of edges.
        position: One of the result's positions.

    Returns:
        The figure.
    """
    figure = _edge_map(result.edges, result.frame(), result.position_names, position, result.metric)
    method = "EAP" if result.n_steps == 1 else f"EAP-IG ({result.n_steps} steps)"
    title = f"{method}, an estimate, {result.direction}, corruption {result.corruption}"
    return figure.update_layout(
        title=wrapped(f"{title}: effect on {_named(result.metric)} (n = {result.effects.shape[-1]})")
    )


def node_attribution_figure(result: NodeAttribution, *, kind: str) -> go.Figure:
    """Heat map: mean estimated effect of patching each activation of one kind, layers by positions (and heads).

    Args:
        result: Attribution patching of nodes.
        kind: A kind in the result.

    Returns:
        The figure.

    Raises:
        ValueError: If the kind is not in the result.
    """
    if kind not in result.effects:
        raise ValueError(f"kind must be one of {', '.join(result.effects)}, got {kind!r}")
    frame = result.frame().query("kind == @kind")
    n_layers = result.effects[kind].shape[0]
    rows = list(result.sites) if kind == "resid" else [f"{kind} {name}" for name in result.layer_names]
    # Every label begins with its row's: what is left names the column.
    columns = [label.removeprefix(rows[0]).removeprefix(".") for label in result.labels(kind)]
    columns = [column.removeprefix(" @ ") for column in columns[: len(frame) // n_layers]]
    grid = frame["effect"].to_numpy().reshape(n_layers, -1)
    figure = _signed_map(grid, columns, rows, _ends(frame, grid.shape), METRIC_UNITS[result.metric])
    down, *across = NODE_AXES[kind]
    figure.update_xaxes(title=" and ".join(across))
    figure.update_yaxes(title=down)
    method = "AtP" if result.n_steps == 1 else f"AtP with integrated gradients ({result.n_steps} steps)"
    title = f"{method}, an estimate, {result.direction}, corruption {result.corruption}"
    return figure.update_layout(
        title=wrapped(f"{title}: effect on {_named(result.metric)} (n = {len(result.receiving)})")
    )


def attribution_agreement_figure(agreement: Agreement, *, metric: str = "logit_diff") -> go.Figure:
    """Scatter: estimated against exact effect of each cell, with the diagonal on which they are equal.

    Args:
        agreement: The comparison.
        metric: The metric compared, for the unit on the axes.

    Returns:
        The figure.
    """
    frame = agreement.cells_frame()
    figure = go.Figure()
    for i, (group, cells) in enumerate(frame.groupby("group", sort=False)):
        figure.add_scatter(
            x=cells["exact"],
            y=cells["approximate"],
            mode="markers",
            name=str(group),
            marker={"color": LINE_COLOURS[i % len(LINE_COLOURS)], "size": 7},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (cells["high"] - cells["exact"]).clip(lower=0),
                "arrayminus": (cells["exact"] - cells["low"]).clip(lower=0),
                "thickness": 1,
                "width": 0,
            },
            customdata=cells["cell"],
            hovertemplate="%{customdata}: exact %{x:.3f}, estimated %{y:.3f}<extra></extra>",
        )
    ends = [float(frame[["exact", "approximate"]].min().min()), float(frame[["exact", "approximate"]].max().max())]
    figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line={"color": GREY, "dash": "dot"})
    overall = agreement.groups.index(ALL_CELLS)
    pearson, spearman = (
        f"{agreement.values[i, overall]:.2f} [{agreement.low[i, overall]:.2f}, {agreement.high[i, overall]:.2f}]"
        for i in (0, 1)
    )
    figure.update_layout(
        title=wrapped(
            f"Attribution against exact patching: Pearson {pearson}, Spearman {spearman} "
            f"(chance 0; {agreement.n_cells[overall]} cells, n = {agreement.n})"
        ),
        height=520,
        **LAYOUT,
    )
    unit = _unit_suffix(metric)
    figure.update_xaxes(title=f"exact mean effect on {metric}{unit}")
    figure.update_yaxes(title=f"estimated mean effect on {metric}{unit}")
    return figure


def _edge_map(
    edges: Sequence[Edge], frame: pd.DataFrame, position_names: Sequence[str], position: str, metric: str
) -> go.Figure:
    """Writers by readers at one position, from a frame with a row per edge and position."""
    if position not in position_names:
        raise ValueError(f"position must be one of {', '.join(position_names)}, got {position!r}")
    frame = frame.query("position == @position")
    writers, readers = (
        list(dict.fromkeys(part.label for part in parts))
        for parts in (
            sorted((edge.writer for edge in edges), key=lambda writer: writer.written_at),
            [edge.reader for edge in edges],
        )
    )
    rows, columns = [writers.index(w) for w in frame["writer"]], [readers.index(r) for r in frame["reader"]]
    grid = np.full((len(writers), len(readers)), np.nan)
    grid[rows, columns] = frame["effect"]
    hover = np.full(grid.shape, "", dtype=object)
    hover[rows, columns] = _ends(frame, (len(frame),))
    figure = _signed_map(grid, readers, writers, hover, METRIC_UNITS[metric])
    figure.update_xaxes(title=f"reader{'' if position == ALL_POSITIONS else f', at {position}'}")
    figure.update_yaxes(title="writer")
    return figure


def _signed_map(
    grid: np.ndarray, columns: Sequence[str], rows: Sequence[str], hover: np.ndarray, unit: str
) -> go.Figure:
    """A heat map symmetric about 0, without text where cells are too small for it."""
    figure = heat_map(grid, columns, rows, unit=unit, limits=None, hover=hover)
    if grid.size > _MOST_CELLS_WITH_TEXT:
        figure.update_traces(texttemplate=None)
        figure.update_layout(height=160 + 20 * len(rows))
    figure.update_xaxes(type="category")
    return figure


def _ends(frame: pd.DataFrame, shape: tuple[int, ...]) -> np.ndarray:
    """Hover text: the interval of each cell."""
    texts = [f"95 % [{low:.3f}, {high:.3f}]" for low, high in zip(frame["low"], frame["high"], strict=True)]
    return np.array(texts, dtype=object).reshape(shape)


def _named(metric: str) -> str:
    """The metric with its unit."""
    return f"{metric}{_unit_suffix(metric)}"


def _unit_suffix(metric: str) -> str:
    """The metric's unit in brackets, if it has one."""
    return f" ({METRIC_UNITS[metric]})" if METRIC_UNITS[metric] else ""
