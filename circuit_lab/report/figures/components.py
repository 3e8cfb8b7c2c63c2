"""Figures of components: where heads look, what components write into the logit, what is lost without them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuit_lab.measures.metrics import METRIC_UNITS
from circuit_lab.measures.patching.ablation import Ablation
from circuit_lab.measures.readings.attention import AttentionPatterns
from circuit_lab.measures.readings.direct_logit_attribution import DirectLogitAttribution
from circuit_lab.report.figures.style import (
    BLUE,
    GREY,
    LAYOUT,
    LINE_COLOURS,
    ORANGE,
    SHARE_SCALE,
    heat_map,
    layer_in_words,
    wrapped,
)

_FEW_POSITIONS = 5
"""Up to so many positions, the weights are written into the cells."""


def attention_figure(patterns: AttentionPatterns, *, split: str) -> go.Figure:
    """Heat maps: mean attention weight of every head, destinations down and sources across.

    Args:
        patterns: What was read.
        split: Which queries, for the title.

    Returns:
        A row per effective layer and a column per head; cells the destination may not see are empty.
    """
    n_layers, n_heads = patterns.top_share.shape[:2]
    names, layers = list(patterns.position_names), map(layer_in_words, patterns.layer_names)
    figure = make_subplots(
        rows=n_layers,
        cols=n_heads,
        subplot_titles=[f"{layer} head {head}" for layer in layers for head in range(n_heads)],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.25 / n_layers,
    )
    for layer in range(n_layers):
        for head in range(n_heads):
            for trace in _head_map(patterns, layer, head, names).data:
                figure.add_trace(trace, row=layer + 1, col=head + 1)
    figure.update_layout(
        title=wrapped(
            f"Where each head looks on {split}: mean weight over queries (n = {patterns.n}); corroborates only"
        ),
        coloraxis={"colorscale": SHARE_SCALE, "cmin": 0, "cmax": 1, "colorbar": {"title": "weight"}},
        height=140 + n_layers * (60 + 35 * len(names)),
        **LAYOUT,
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    figure.update_xaxes(title="attended (source)", row=n_layers)
    figure.update_yaxes(title="from (destination)", col=1)
    return figure


def _head_map(patterns: AttentionPatterns, layer: int, head: int, names: list[str]) -> go.Figure:
    """One head's weights, with interval, uniform weight and top share on hover."""
    cell = (layer, head)
    low, high = patterns.weight.low[cell].numpy(), patterns.weight.high[cell].numpy()
    uniform, top_share = patterns.uniform.numpy(), patterns.top_share[cell].numpy()
    weight = np.where(uniform > 0, patterns.weight.mean[cell].numpy(), np.nan)
    hover = [
        [
            f"95 % {low[d, s]:.3f} to {high[d, s]:.3f}; uniform {uniform[d, s]:.3f}; on top in {top_share[d, s]:.2f}"
            for s in range(len(names))
        ]
        for d in range(len(names))
    ]
    figure = heat_map(weight, names, names, unit="weight", hover=np.array(hover))
    figure.update_traces(coloraxis="coloraxis", hoverongaps=False)
    if len(names) > _FEW_POSITIONS:
        figure.update_traces(texttemplate=None)
    return figure


def head_roles_figure(
    patterns: AttentionPatterns, *, split: str, pairs: Sequence[tuple[str, str]] | None = None
) -> go.Figure:
    """Bars: how much each head attends the named sources, beside the uniform weight and the control net.

    Args:
        patterns: What was read.
        split: Which queries, for the title.
        pairs: (destination, source) by name; by default every pair of different positions that see each other.

    Returns:
        A panel per pair and a bar per head.

    Raises:
        ValueError: If a pair is not one that some head can have, or there are more pairs than colours.
    """
    frame = patterns.frame()
    visible = list(dict.fromkeys(zip(frame["dest"], frame["src"], strict=True)))
    shown = [(d, s) for d, s in visible if d != s] if pairs is None else list(pairs)
    unknown = [pair for pair in shown if pair not in visible]
    if unknown or not 0 < len(shown) <= len(LINE_COLOURS):
        raise ValueError(
            f"pairs must name 1 to {len(LINE_COLOURS)} (destination, source) pairs that a head can have, got "
            f"{unknown or f'{len(shown)} pairs'}"
        )
    uniform = {(d, s): weight for d, s, weight in zip(frame["dest"], frame["src"], frame["uniform"], strict=True)}
    titles = [f"{src} from {dest} (dotted: uniform, {uniform[dest, src]:.2f})" for dest, src in shown]
    figure = make_subplots(rows=len(shown), subplot_titles=titles, shared_xaxes=True)
    for row, ((dest, src), colour) in enumerate(zip(shown, LINE_COLOURS, strict=False), start=1):
        part = frame.loc[(frame["dest"] == dest) & (frame["src"] == src)]
        heads = [
            f"L{name}H{head}" if name.isdecimal() else f"{name} head {head}"
            for name, head in zip(part["step"], part["head"], strict=True)
        ]
        bars = go.Bar(x=heads, y=part["weight"], marker_color=colour, error_y=_spread(part, "weight"), showlegend=False)
        figure.add_trace(bars, row=row, col=1)
        if patterns.control is not None:
            control = _markers(x=heads, y=list(part["control"]), name="control net")
            control.showlegend = row == 1
            figure.add_trace(control, row=row, col=1)
        line = {"type": "line", "x0": 0, "x1": 1, "y0": uniform[dest, src], "y1": uniform[dest, src]}
        figure.add_shape(line | {"line": {"dash": "dot"}, "xref": "x domain", "yref": "y"}, row=row, col=1)
    figure.update_layout(
        title=wrapped(f"Attention weight by head on {split} (n = {patterns.n}, 95 % intervals); corroborates only"),
        height=140 + 190 * len(shown),
        **LAYOUT,
    )
    figure.update_yaxes(title="mean weight", range=[0, 1])
    figure.update_xaxes(title="effective layer and head", row=len(shown))
    return figure


def direct_logit_attribution_figure(attribution: DirectLogitAttribution, *, split: str) -> go.Figure:
    """Bars: logits each component writes for the target, with intervals, beside another query's target.

    Args:
        attribution: What was read.
        split: Which queries, for the title.

    Returns:
        A bar per component, in the order of the forward pass.
    """
    frame = attribution.frame()
    figure = go.Figure(
        [
            go.Bar(
                name=f"the query's own {attribution.target}",
                x=frame["component"],
                y=frame["attribution"],
                marker_color=BLUE,
                error_y=_spread(frame, "attribution"),
                hovertemplate="%{x}: %{y:.3f} logits<extra></extra>",
            ),
            _markers(
                x=list(frame["component"]), y=list(frame["control"]), name=f"another query's {attribution.target}"
            ),
        ]
    )
    foil = {"mean": "centred over the vocabulary", "best_other": "less the best other token's"}
    compared = foil.get(attribution.foil, "less the given foil's")
    parts = "up to there, cumulative" if attribution.unit == "layer" else f"by {attribution.unit}"
    figure.update_layout(
        title=wrapped(
            f"Direct attribution of the {attribution.target}'s logit, {compared}, on {split}<br>"
            f"{parts}; mean {float(attribution.logit.mean()):.2f}, of which {float(attribution.constant.mean()):.2f} "
            f"constant (n = {attribution.n}, 95 % intervals, no preference = 0); corroborates only"
        ),
        height=420,
        **LAYOUT,
    )
    figure.update_yaxes(title="logits", zeroline=True, zerolinecolor=GREY)
    figure.update_xaxes(title="component", type="category")
    return figure


def ablation_figure(*ablations: Ablation, split: str, metric: str = "accuracy") -> go.Figure:
    """Bars: the metric without each component, beside the intact run and chance.

    Args:
        *ablations: One or more results on the same queries, such as one per scope or per way of ablating.
        split: Which queries, for the title.
        metric: One of `METRICS`.

    Returns:
        A bar per component and result.

    Raises:
        ValueError: If there is no result, the metric is unknown, or the results are not of the same queries.
    """
    if not ablations:
        raise ValueError("give at least one ablation to draw")
    if metric not in METRIC_UNITS:
        raise ValueError(f"metric must be one of {', '.join(METRIC_UNITS)}, got {metric!r}")
    if any(result.intact.shape != ablations[0].intact.shape for result in ablations):
        raise ValueError(f"the ablations are of different queries, of {[result.n for result in ablations]}")
    figure = go.Figure()
    for result, colour in zip(ablations, (BLUE, ORANGE, *LINE_COLOURS[2:]), strict=False):
        frame = result.frame()
        frame = frame.loc[frame["metric"] == metric]
        figure.add_bar(
            name=f"{result.how}, {result.scope}",
            y=frame["component"],
            x=frame["value"],
            orientation="h",
            marker_color=colour,
            error_x=_spread(frame, "value"),
            customdata=frame[["change", "change_low", "change_high"]].to_numpy(),
            hovertemplate="%{y}: %{x:.3f}<br>change %{customdata[0]:.3f} (95 % %{customdata[1]:.3f} to "
            "%{customdata[2]:.3f})<extra></extra>",
        )
    first = ablations[0].frame()
    intact = float(first.loc[first["metric"] == metric, "intact"].iloc[0])
    figure.add_vline(x=intact, annotation_text=f"intact {intact:.3f}", annotation_position="top")
    if metric == "accuracy":
        chance = ablations[0].chance
        figure.add_vline(x=chance, line_dash="dot", annotation_text=f"chance {chance:.3f}", annotation_position="top")
        figure.update_xaxes(range=[0, 1.02])
    unit = METRIC_UNITS[metric]
    figure.update_layout(
        title=wrapped(
            f"{metric.replace('_', ' ').capitalize()} without each component on {split} "
            f"(n = {ablations[0].n}, positions {', '.join(ablations[0].positions)}, 95 % intervals)"
        ),
        barmode="group",
        height=200 + 22 * sum(len(result.components) for result in ablations),
        showlegend=True,
        **LAYOUT,
    )
    figure.update_xaxes(title=f"{metric.replace('_', ' ')}{f', {unit}' if unit else ''}")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def _spread(frame: pd.DataFrame, value: str) -> dict[str, object]:
    """Error bars from `low` to `high` about the column `value`."""
    # A percentile interval may miss its mean by rounding.
    above, below = (frame["high"] - frame[value]).clip(lower=0), (frame[value] - frame["low"]).clip(lower=0)
    return {"type": "data", "symmetric": False, "array": above.to_numpy(), "arrayminus": below.to_numpy()}


def _markers(*, x: Sequence[str], y: Sequence[float], name: str) -> go.Scatter:
    """Diamonds of a control."""
    return go.Scatter(
        name=name,
        x=x,
        y=y,
        mode="markers",
        marker={"symbol": "diamond", "color": GREY, "size": 8, "line": {"color": "white", "width": 1}},
        hovertemplate="%{x}: %{y:.3f}<extra>" + name + "</extra>",
    )
