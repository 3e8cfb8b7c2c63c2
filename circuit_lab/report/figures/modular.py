"""Figures of a modular net: frequencies of its components, ablations, logits of one output, attention, norms."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.colors import diverging
from plotly.subplots import make_subplots
from torch import Tensor

from circuit_lab.measures.intervals import Interval, mean_interval, proportion_interval
from circuit_lab.measures.modular.frequency_ablation import FrequencyAblation
from circuit_lab.measures.modular.norms import LogitEfficiency, WeightNorms
from circuit_lab.measures.modular.trig_decomposition import TrigDecomposition
from circuit_lab.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LAYOUT,
    ORANGE,
    SHARE_SCALE,
    SKY,
    heat_map,
    layer_in_words,
    wrapped,
)
from circuit_lab.tasks import AnswerGroup

INTACT, WITHOUT, ONLY, RANDOM = (
    "intact",
    "without the key frequencies",
    "with the key frequencies only",
    "without random subspaces of the same rank",
)
_CONDITIONS = ((INTACT, GREY, "circle"), (WITHOUT, GREEN, "square"), (ONLY, SKY, "diamond"), (RANDOM, ORANGE, "x"))
_N_LEVELS = 120
"""Steps from 0 to the largest logit of a map: finer than the eye tells colours, and a byte holds them with a sign."""
_LEGEND_BELOW = {"orientation": "h", "yanchor": "top", "xanchor": "left", "x": 0}
_BAR_BELOW = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "thickness": 12}
_TICK_LINES = 3
"""Ticks of neighbouring frequencies stand on lines of their own."""
_NO_PAIR = "#AAAAAA"


def component_spectra_figure(spectra: pd.DataFrame, *, group: AnswerGroup) -> go.Figure:
    """Heat map: share of each frequency in each component; the ticks name the key frequencies.

    Args:
        spectra: One row per component and frequency, with `share`, `key` and `of_component`, as in `ModularExhibits`.
        group: The group that the frequencies are of.

    Returns:
        The figure.
    """
    components, frequencies = (list(dict.fromkeys(spectra[c])) for c in ("component", "frequency"))
    shares = spectra.pivot(index="component", columns="frequency", values="share").loc[components, frequencies]
    held = spectra.groupby("component")["of_component"].first()
    key = list(dict.fromkeys(spectra.loc[spectra["key"], "frequency"]))
    figure = go.Figure(
        go.Heatmap(
            z=shares.round(3).to_numpy(),
            x=frequencies,
            y=[f"{name}<br>({held[name]:.2f} of it)" for name in components],
            zmin=0,
            zmax=float(shares.to_numpy().max()),
            colorscale=SHARE_SCALE,
            hovertemplate="%{y}<br>frequency %{x}: %{z:.3f} of the energy<extra></extra>",
            colorbar=_BAR_BELOW | {"title": {"text": "share", "side": "bottom"}},
        )
    )
    figure.update_layout(
        title=wrapped(
            "Share of each frequency by component, over all pairs; ticks: the key frequencies "
            f"(even: {1 / len(frequencies):.3f}; in brackets: how much of what varies is such a function)"
        ),
        height=240 + 44 * len(components),
        margin={"l": 10, "r": 10, "b": 140},
        **LAYOUT,
    )
    figure.update_xaxes(
        title=f"{'frequency' if group.is_cyclic else 'irreducible representation'} of {group.name}",
        type="category",
        tickvals=key or frequencies,
        ticktext=[f"{'<br>' * (i % _TICK_LINES)}{name}" for i, name in enumerate(key or frequencies)],
        tickangle=0,
        ticks="outside",
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def key_frequency_figure(ablations: Mapping[str, FrequencyAblation], *, chance: Mapping[str, float]) -> go.Figure:
    """Points with 95 % intervals: accuracy intact, without and with only the key frequencies, without random subspaces.

    The bar of the random subspaces is no interval but their range.

    Args:
        ablations: Per split.
        chance: Accuracy of the best answer that ignores the question, per split.

    Returns:
        The figure, with a panel for each site.
    """
    first = next(iter(ablations.values()))
    places = list(first.sites.values())
    figure = make_subplots(
        rows=len(places),
        shared_xaxes=True,
        vertical_spacing=0.12,
        subplot_titles=[f"{s.site} ({s.stage}), rank {s.rank} of {s.n_dimensions}" for s in places],
    )
    labels = [f"{split}<br>n = {len(ablation.right)}" for split, ablation in ablations.items()]
    for row, place in enumerate(places, start=1):
        for number, (condition, colour, symbol) in enumerate(_CONDITIONS):
            rates = [_rate(condition, ablation, place.site) for ablation in ablations.values()]
            trace = _points(condition, rates, labels, offset=0.16 * (number - 1.5), colour=colour, symbol=symbol)
            figure.add_trace(trace.update(showlegend=row == 1), row=row, col=1)
        figure.add_trace(_chance_marks(ablations, chance).update(showlegend=row == 1), row=row, col=1)
    figure.update_layout(
        title=wrapped(
            f"Answers without the key frequencies {', '.join(first.key_frequencies)}, and with nothing else: 95 % "
            f"intervals over pairs; of {first.n_random} random subspaces mean and range; chance: the best answer that "
            "ignores the question"
        ),
        height=180 + 68 * len(labels) * len(places),
        legend=_LEGEND_BELOW | {"y": -0.28 / len(places)},
        margin={"l": 10, "r": 10, "t": 150},
        **LAYOUT,
    )
    figure.update_yaxes(
        tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.5, -0.5], automargin=True
    )
    figure.update_xaxes(range=[-0.03, 1.03])
    figure.update_xaxes(title="accuracy", row=len(places))
    return figure


def _rate(condition: str, ablation: FrequencyAblation, site: str) -> tuple[float, Interval]:
    """Accuracy under a condition, and its interval, or the range over random subspaces."""
    of_site = ablation.sites[site]
    if condition == RANDOM:
        rates = of_site.right_without_random.double().mean(1)
        return of_site.control_rate, Interval(float(rates.min()), float(rates.max()))
    right = {INTACT: ablation.right, WITHOUT: of_site.right_without, ONLY: of_site.right_with_only}[condition]
    n_right, n = int(right.sum()), len(right)
    return n_right / n, proportion_interval(n_right, n)


def _points(
    name: str,
    rates: Sequence[tuple[float, Interval]],
    labels: Sequence[str],
    *,
    offset: float,
    colour: str,
    symbol: str,
) -> go.Scatter:
    """One point with a bar for each label, moved off its line."""
    return go.Scatter(
        name=name,
        legendgroup=name,
        x=[round(value, 4) for value, _ in rates],
        y=[row + offset for row in range(len(labels))],
        error_x={
            "array": [round(interval.high - value, 4) for value, interval in rates],
            "arrayminus": [round(value - interval.low, 4) for value, interval in rates],
            "color": colour,
        },
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 9},
        customdata=[
            f"{label}<br>{value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
            for label, (value, interval) in zip(labels, rates, strict=True)
        ],
        hovertemplate="%{customdata}<extra>" + name + "</extra>",
    )


def _chance_marks(splits: Mapping[str, object], chance: Mapping[str, float]) -> go.Scatter:
    """A dotted line at the chance of each split."""
    x, y = [], []
    for row, split in enumerate(splits):
        x += [round(chance[split], 4)] * 2 + [None]
        y += [row - 0.4, row + 0.4, None]
    return go.Scatter(
        name="chance",
        legendgroup="chance",
        x=x,
        y=y,
        mode="lines",
        line={"dash": "dot", "color": GREY},
        hovertemplate="chance %{x:.3f}<extra></extra>",
    )


def trig_share_figure(decomposition: TrigDecomposition, *, interval: Interval) -> go.Figure:
    """Bars: how much of each split's logits the generalising part explains, beside what a memoriser would reach.

    Args:
        decomposition: The parts of the logits.
        interval: 95 % interval of the share on the split that was fitted, where the verdict reads it.

    Returns:
        The figure.
    """
    splits = [name for name in decomposition.splits if name != "all"] or ["all"]
    fitted, baseline = decomposition.fitted_on, decomposition.memoriser_baseline
    shares = [decomposition.splits[name].energy_share for name in splits]
    ends = [interval if name == fitted else None for name in splits]
    figure = go.Figure(
        go.Bar(
            x=[round(share, 4) for share in shares],
            y=[f"{name}<br>n = {decomposition.splits[name].n}" for name in splits],
            orientation="h",
            marker_color=[GREEN if name == fitted else GREY for name in splits],
            error_x={
                "array": [0 if end is None else end.high - share for end, share in zip(ends, shares, strict=True)],
                "arrayminus": [0 if end is None else share - end.low for end, share in zip(ends, shares, strict=True)],
            },
            hovertemplate="%{y}: %{x:.3f} of the logits' energy<extra></extra>",
        )
    )
    figure.add_vline(x=baseline, line_dash="dot")
    figure.update_layout(
        title=wrapped(
            f"Share of the logits' energy in the generalising part, fitted on {fitted} (green, with 95 % interval; "
            f"dotted: a pure memoriser there, {baseline:.3f})"
        ),
        height=160 + 52 * len(splits),
        margin={"l": 10, "r": 10},
        **LAYOUT,
    )
    figure.update_xaxes(title="share", range=[min(-0.03, 1.1 * min(shares)), 1.03])
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def logit_maps_figure(
    maps: Mapping[str, Float[Tensor, "n n"]], *, in_training: Float[Tensor, "n n"] | None, output: str
) -> go.Figure:
    """Heat maps: the logit of one output for every pair, whole and by part, the remaining part by who was trained on.

    Colours have `_N_LEVELS` steps to each side, and so have the numbers on hover.

    Args:
        maps: "whole", "generalising part" and "remaining part", rows a, columns b; nan where there is no logit.
        in_training: 1 where a pair is trained on; None where nobody knows, and the remaining part is one map.
        output: Name of the output.

    Returns:
        The figure, in two columns.
    """
    whole, generalising, remaining = (maps[name].numpy() for name in ("whole", "generalising part", "remaining part"))
    there = np.isfinite(whole)
    panels = {
        f"whole<br>(n = {there.sum()})": whole,
        "generalising part": generalising,
    }
    if in_training is None:
        panels["remaining part"] = remaining
    else:
        trained = in_training.numpy() > 0
        panels |= {
            f"remaining part<br>trained on (n = {(trained & there).sum()})": np.where(trained, remaining, np.nan),
            f"remaining part<br>held out (n = {(~trained & there).sum()})": np.where(trained, np.nan, remaining),
        }
    largest = max(float(np.nanmax(np.abs(values))) for values in (whole, generalising, remaining))
    step = largest / _N_LEVELS if largest > 0 else 1.0
    figure = make_subplots(rows=2, cols=2, subplot_titles=list(panels), vertical_spacing=0.12)
    for i, values in enumerate(panels.values()):
        row, column = divmod(i, 2)
        heat = go.Heatmap(
            z=np.round(values / step) * step,
            coloraxis="coloraxis",
            hovertemplate="a = %{y}, b = %{x}: %{z:.1f}<extra></extra>",
        )
        figure.add_trace(heat, row=row + 1, col=column + 1)
    figure.update_layout(
        title=wrapped(f"Centred logit of output {output} for every pair; grey: not among the pairs"),
        height=900,
        coloraxis={
            "colorscale": diverging.RdBu_r,
            "cmin": -largest,
            "cmax": largest,
            "colorbar": _BAR_BELOW | {"title": {"text": "logits", "side": "bottom"}},
        },
        margin={"l": 40, "r": 10, "b": 110},
        **LAYOUT,
    )
    figure.update_layout(plot_bgcolor=_NO_PAIR)
    figure.update_annotations(font_size=12)
    figure.update_xaxes(showgrid=False, zeroline=False, matches="x")
    figure.update_xaxes(title="b", row=2)
    figure.update_yaxes(showgrid=False, zeroline=False, matches="y", autorange="reversed")
    figure.update_layout(xaxis_matches=None, yaxis_matches=None)  # the others follow these
    figure.update_yaxes(title="a", col=1)
    return figure


def shown_attention_figure(
    attention: Float[Tensor, "n n_layers n_heads n_ctx n_ctx"],
    *,
    position_names: Sequence[str],
    layer_names: Sequence[str],
) -> go.Figure:
    """Heat map: where each head looks from the last position, on average over the pairs shown.

    Args:
        attention: Attention weights.
        position_names: Names of the positions.
        layer_names: What each layer is called.

    Returns:
        The figure, with intervals on hover.
    """
    n, _, n_heads, n_ctx = attention.shape[:4]
    weight = mean_interval(attention[..., -1, :].double().movedim(0, -1))
    low, high = (ends.reshape(-1, n_ctx).numpy() for ends in (weight.low, weight.high))
    figure = heat_map(
        weight.mean.reshape(-1, n_ctx).numpy(),
        list(position_names),
        [f"{layer_in_words(name)}, head {head}" for name in layer_names for head in range(n_heads)],
        unit="weight",
        hover=np.vectorize(lambda a, b: f"[{a:.3f}, {b:.3f}]")(low, high),
    ).update_traces(showscale=False)
    figure.update_layout(
        title=wrapped(
            f"Attention from {position_names[-1]}: mean weight over the pairs shown (n = {n}, equal weights "
            f"{1 / n_ctx:.3f}); corroborates only"
        ),
        margin={"l": 10, "r": 10},
    )
    figure.update_xaxes(title="to")
    figure.update_yaxes(automargin=True)
    return figure


def weight_norms_figure(norms: WeightNorms) -> go.Figure:
    """Bars: Euclidean norm of the weights of each component, and of all.

    Args:
        norms: The norms.

    Returns:
        The figure.
    """
    rows = norms.frame().query("level != 'matrix'")
    rows = rows.iloc[[*range(1, len(rows)), 0]]  # the total last
    figure = go.Figure(
        go.Bar(
            x=rows["norm"].round(2),
            y=rows["name"],
            orientation="h",
            marker_color=[GREY if level == "total" else BLUE for level in rows["level"]],
            text=rows["norm"].round(1),
            customdata=rows["n_weights"],
            hovertemplate="%{y}: norm %{x:.2f}, %{customdata} weights<extra></extra>",
        )
    )
    figure.update_layout(
        title=wrapped(f"Norm of the weights ({sum(norms.n_weights.values())} weights; squares add up)"),
        height=120 + 34 * len(rows),
        margin={"l": 10, "r": 10},
        **LAYOUT,
    )
    figure.update_xaxes(title="Euclidean norm")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def efficiency_figure(efficiency: LogitEfficiency, *, pairs: str = "the training pairs") -> go.Figure:
    """Bars: what logits the weights buy on the training pairs, and how many losses have rounded to 0.

    Args:
        efficiency: On the training pairs, or on all where nobody knows which they are.
        pairs: Which of the two, in words.

    Returns:
        The figure, with a panel for logits and one for shares.
    """
    logits = {
        "correct logit": efficiency.correct_logit,
        "logit scale": efficiency.logit_scale,
        "margin, mean": efficiency.margin_mean,
        "margin, 5 % below": efficiency.margin_low,
    }
    shares = {"loss 0 in float32": efficiency.collapsed_float32, "loss 0 in float64": efficiency.collapsed_float64}
    figure = make_subplots(rows=2, row_heights=[len(logits), len(shares)], vertical_spacing=0.3)
    for row, (unit, values, colour) in enumerate((("logits", logits, BLUE), ("share of the pairs", shares, ORANGE)), 1):
        bars = go.Bar(
            x=[round(value, 4) for value in values.values()],
            y=list(values),
            orientation="h",
            marker_color=colour,
            text=[f"{value:.3g}" for value in values.values()],
            textposition="outside",
            hovertemplate="%{y}: %{x:.3f} " + unit + "<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(bars, row=row, col=1)
        # Room for the numbers beyond the bars.
        ends = (min(0.0, *values.values()), max(0.0, *values.values()))
        room = 0.25 * (ends[1] - ends[0])
        figure.update_xaxes(title=unit, row=row, range=[ends[0] - room * (ends[0] < 0), ends[1] + room])
    figure.update_layout(
        title=wrapped(
            f"What the weights buy on {pairs} (n = {efficiency.n}): {efficiency.efficiency:.2f} logits for "
            f"each unit of a norm of {efficiency.weight_norm:.1f}"
        ),
        height=430,
        margin={"l": 10, "r": 10},
        **LAYOUT,
    )
    figure.update_xaxes(range=[0, 1.25], tickvals=[0, 0.25, 0.5, 0.75, 1], row=2)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure
