"""Figures of subspaces and states: learnt subspaces, CKA, and path identity."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.measures.readings.cka import LensSiteCka
from circuit_lab.measures.subspaces.das import BridgeDas
from circuit_lab.measures.subspaces.path_identity import PathIdentity
from circuit_lab.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LAYOUT,
    ORANGE,
    PALE,
    PINK,
    SKY,
    heat_map,
    rows_where,
    wrapped,
)

SUBSPACE_COLOURS = {
    "learnt": GREEN,
    "full state": BLUE,
    "random": SKY,
    "arbitrary labels": ORANGE,
    "untrained net": PINK,
    "nothing": PALE,
}


def das_figure(das: BridgeDas, *, pairs: str = "held_out") -> go.Figure:
    """Bars: interchange accuracy by rank, a panel for each stage, of the learnt subspace and of its controls.

    Args:
        das: The result.
        pairs: "held_out" or "train".

    Returns:
        The figure.

    Raises:
        ValueError: If there are no such pairs.
    """
    of_pairs = {
        "held_out": f"held-out pairs ({das.n_held_out_facts} first-hop facts, fitted on {das.n_train_facts} others)",
        "train": f"training pairs ({das.n_train_facts} first-hop facts)",
    }
    if pairs not in of_pairs:
        raise ValueError(f"pairs must be one of {', '.join(of_pairs)}, got {pairs!r}")
    frame = rows_where(das.frame(), pairs=pairs)
    figure = make_subplots(
        cols=len(das.stages), subplot_titles=[f"{stage} @ {das.position}" for stage in das.stages], shared_yaxes=True
    )
    for column, stage in enumerate(das.stages, start=1):
        for subspace, colour in SUBSPACE_COLOURS.items():
            rows = rows_where(frame, stage=stage, subspace=subspace)
            bars = go.Bar(
                name=subspace,
                x=[str(rank) for rank in rows["rank"]],
                y=rows["accuracy"],
                error_y=_error_bars(rows, "accuracy"),
                marker_color=colour,
                legendgroup=subspace,
                showlegend=column == 1,
                hovertemplate="rank %{x}: %{y:.3f}<extra>" + subspace + "</extra>",
            )
            figure.add_trace(bars, row=1, col=column)
    n, chance = frame["n"].to_list()[0], frame["chance"].to_list()[0]
    figure.add_hline(y=chance, line_dash="dot")
    figure.update_layout(
        barmode="group",
        title=wrapped(
            f"Interchange of the bridge in a subspace: n = {n} {of_pairs[pairs]}; dotted: chance {chance:.3f}"
        ),
        height=420,
        **LAYOUT,
    )
    figure.update_xaxes(title="rank of the subspace", type="category")
    figure.update_yaxes(range=[0, 1])
    figure.update_yaxes(title="interchange accuracy", row=1, col=1)
    return figure


def cka_figure(cka: LensSiteCka) -> go.Figure:
    """Heat map: debiased linear CKA between the lens sites at one position."""
    interval = np.vectorize("95 % [{:.2f}, {:.2f}]; rows permuted: {:.2f}".format)
    hover = interval(cka.low.numpy(), cka.high.numpy(), cka.permuted.numpy())
    figure = heat_map(cka.cka.numpy(), list(cka.stages), list(cka.stages), unit="CKA", hover=hover)
    largest = float(cka.permuted.abs().nan_to_num().max())
    figure.update_layout(
        title=wrapped(
            f"Debiased linear CKA of the states at {cka.position} (n = {cka.n} distinct; at most {largest:.3f} "
            "with rows permuted); corroborates only"
        ),
        height=240 + 40 * len(cka.stages),
        **LAYOUT,
    )
    figure.update_xaxes(title="stage")
    figure.update_yaxes(title="stage")
    return figure


def path_identity_figure(identity: PathIdentity) -> go.Figure:
    """Bars: correlation of grids and of site rates, overlap of sites, and cross interchange, as far as measured."""
    frame = identity.frame()
    parts = [part for part in _IDENTITY_PANELS if part in set(frame["part"])]
    titles = [_IDENTITY_PANELS[part] for part in parts]
    figure = make_subplots(cols=len(parts), subplot_titles=titles, horizontal_spacing=0.1)
    for column, part in enumerate(parts, start=1):
        rows = rows_where(frame, part=part)
        bars = _interchange_bars(rows) if part == "interchange" else _correlation_bars(part, rows, legend=column == 1)
        figure.add_traces(bars, rows=1, cols=column)
        is_share = part == "interchange"
        figure.update_yaxes(title="interchange accuracy" if is_share else "value", row=1, col=column)
        if is_share:
            figure.update_yaxes(range=[0, 1], row=1, col=column)
    figure.update_layout(
        barmode="group",
        title=wrapped(f"One path? {identity.name_a} against {identity.name_b} ({'; '.join(_sizes(identity))})"),
        height=460,
        legend={"orientation": "h", "y": -0.35},
        **LAYOUT,
    )
    return figure


_IDENTITY_PANELS = {
    "grids": "patching grids (correlation over cells)",
    "sites": "sites (overlap; correlation of rates)",
    "interchange": "cross interchange",
}


def _correlation_bars(part: str, rows: pd.DataFrame, *, legend: bool) -> list[go.Bar]:
    """The values with intervals, and beside them the range that permuted cells, or random sets, give."""
    names = list(rows["measure"])
    if part == "grids":
        names = [f"{m},<br>{c}" for m, c in zip(names, rows["compared"], strict=True)]
    low, high = rows["permuted_low"], rows["permuted_high"]
    if part == "sites":
        low, high = low.fillna(0.0), high.fillna(rows["chance"])
    measured = go.Bar(
        name="measured",
        x=names,
        y=rows["value"],
        error_y=_error_bars(rows, "value"),
        marker_color=GREEN,
        legendgroup="measured",
        hovertemplate="%{x}: %{y:.3f}<extra></extra>",
    )
    permuted = go.Bar(
        name="by chance (95 % of permutations; expected overlap of random sets)",
        x=names,
        y=high - low,
        base=low,
        marker_color=PALE,
        legendgroup="permuted",
        customdata=np.stack([low, high], axis=1),
        hovertemplate="%{x} by chance: %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
    )
    for bar in (measured, permuted):
        bar.showlegend = legend
    return [measured, permuted]


def _interchange_bars(rows: pd.DataFrame) -> list[go.Bar | go.Scatter]:
    """Accuracy with each kind of state: the mapped one, the controls, the ceiling; and the line of chance."""
    bars = go.Bar(
        name="interchange",
        x=list(rows["measure"]),
        y=rows["value"],
        error_y=_error_bars(rows, "value"),
        marker_color=[GREEN, *[GREY] * (len(rows) - 2), BLUE],
        showlegend=False,
        hovertemplate="%{x}: %{y:.3f}<extra></extra>",
    )
    chance = go.Scatter(
        name=f"chance of the interchange, {rows['chance'].to_list()[0]:.3f}",
        x=list(rows["measure"]),
        y=rows["chance"],
        mode="lines",
        line={"color": "black", "dash": "dot"},
    )
    return [bars, chance]


def _sizes(identity: PathIdentity) -> list[str]:
    """How much each part was measured on."""
    sizes = []
    if identity.grids is not None:
        sizes.append(f"{identity.grids.n_cells} cells of {identity.grids.n_a} and {identity.grids.n_b} queries")
    if identity.sites is not None:
        sizes.append(f"{identity.sites.n_candidates} candidate sites")
    if identity.interchange is not None:
        sizes.append(f"{identity.interchange.hits.shape[1]} pairs")
    return sizes


def _error_bars(rows: pd.DataFrame, value: str) -> dict[str, object]:
    """Interval ends as distances from the value; none where there is no interval."""
    return {
        "type": "data",
        "symmetric": False,
        "array": (rows["high"] - rows[value]).clip(lower=0).fillna(0.0),
        "arrayminus": (rows[value] - rows["low"]).clip(lower=0).fillna(0.0),
    }
