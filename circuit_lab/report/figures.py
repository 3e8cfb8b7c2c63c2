"""Figures of a diagnosis: each takes a finished result and draws it."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.measures import BridgeRecovery, LocatedSites
from circuit_lab.verdict import Diagnosis

OUTCOME_COLOURS = {
    # Okabe and Ito's palette, told apart by the colour-blind.
    "circuit": "#009E73",
    "shortcut": "#E69F00",
    "second_hop_failure": "#0072B2",
    "first_hop_failure": "#56B4E9",
    "composition_failure": "#CC79A7",
    "no_circuit": "#999999",
    "untestable": "#DDDDDD",
}
_LAYOUT = {
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "paper_bgcolor": "white",
    "plot_bgcolor": "white",
}


def outcomes_figure(diagnosis: Diagnosis) -> go.Figure:
    """Stacked bars: what became of each query, by split, as a share of the split."""
    labels = [f"{s.split}<br>n = {s.n}" for s in diagnosis.outcomes]
    figure = go.Figure(
        [
            go.Bar(
                name=outcome.replace("_", " "),
                y=labels,
                x=[s.shares[outcome] for s in diagnosis.outcomes],
                orientation="h",
                marker_color=colour,
                hovertemplate="%{y}: %{x:.3f} of the queries<extra>" + outcome + "</extra>",
            )
            for outcome, colour in OUTCOME_COLOURS.items()
        ]
    )
    figure.update_layout(barmode="stack", title="What became of each query", height=340, **_LAYOUT)
    figure.update_xaxes(title="share of the split's queries", range=[0, 1])
    figure.update_yaxes(autorange="reversed")
    return figure


def site_rates_figure(located: LocatedSites) -> go.Figure:
    """Heat map: where training queries hand on their bridge (hop-1 rate by stage and position set)."""
    frame = located.frame()
    frame["deciding"] = frame[["rate", "mixed_rate"]].min(axis=1)
    grid = frame.pivot(index="stage", columns="positions", values="deciding")
    grid = grid.loc[list(dict.fromkeys(frame["stage"])), list(dict.fromkeys(frame["positions"]))]
    n = max(c.n for c in located.candidates)
    figure = _heat_map(grid.to_numpy(), list(grid.columns), list(grid.index))
    figure.update_layout(
        title=f"Hop-1 transplants on training queries: where the bridge is handed on (n = {n}, threshold .5)",
        height=160 + 50 * len(grid),
        **_LAYOUT,
    )
    figure.update_xaxes(title="positions replaced together")
    figure.update_yaxes(title="stage")
    return figure


def bridge_lens_figure(lens: BridgeRecovery, *, split: str) -> go.Figure:
    """Two heat maps: how often the logit lens has the bridge, and the answer, on top, by stage and position."""
    figure = make_subplots(cols=2, subplot_titles=("bridge on top", "answer on top"), shared_yaxes=True)
    for column, values in enumerate((lens.bridge_top1, lens.answer_top1), start=1):
        for trace in _heat_map(values.numpy(), list(lens.position_names), list(lens.stages)).data:
            figure.add_trace(trace, row=1, col=column)
    figure.update_layout(
        title=f"Logit lens on {split}: share of queries (n = {lens.n}, chance {lens.chance:.3f}); corroborates only",
        height=160 + 40 * len(lens.stages),
        **_LAYOUT,
    )
    figure.update_xaxes(title="position")
    return figure


def _heat_map(values, columns: list[str], rows: list[str]) -> go.Figure:
    return go.Figure(
        go.Heatmap(
            z=values,
            x=columns,
            y=rows,
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            texttemplate="%{z:.2f}",
            hovertemplate="%{y} @ %{x}: %{z:.3f}<extra></extra>",
            colorbar={"title": "share"},
        )
    )
