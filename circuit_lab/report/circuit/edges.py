"""The lines of the diagram: path-patching edges between components, and heads that look at another position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from circuit_lab.measures import METRIC_UNITS, METRICS, AttentionPatterns, PathPatching, mean_interval
from circuit_lab.report.circuit.layout import Box, Layout
from circuit_lab.report.circuit.net import Net
from circuit_lab.report.circuit.values import short, short_all

MAX_EDGES, SHOWN_AT_FIRST = 120, 16
METRIC = "logit_diff"
_WIDEST, _THINNEST = 8.0, 1.0
_PORT = {"q": -0.3, "v": 0.3}
"""Where an edge enters a head, as a share of its width from the middle: q left, k middle, v right."""


@dataclass(frozen=True)
class Effect:
    """The effect of one edge at one position, in logits.

    Attributes:
        writer: Its writer, such as "mlp 0".
        reader: Its reader, such as "v 1.2".
        position: Where.
        mean: Over pairs of queries; positive = the metric rises.
        low: Lower end of the mean's 95 % interval.
        high: Upper end.
    """

    writer: str
    reader: str
    position: str
    mean: float
    low: float
    high: float

    @property
    def name(self) -> str:
        """What people read."""
        return f"{self.writer} → {self.reader} @ {self.position}"

    @property
    def reading_component(self) -> str:
        """The component that reads: the head for its q, k and v."""
        kind, _, of = self.reader.partition(" ")
        return f"head {of}" if kind in ("q", "k", "v") else self.reader


@dataclass(frozen=True)
class Line:
    """A line from node to node.

    Attributes:
        path: SVG path.
        width: Of the stroke.
        negative: Whether the effect is below 0.
        shown: Whether it is drawn at first.
        arrow: SVG path of an arrow's point; empty without one, as all edges run upwards.
    """

    path: str
    width: float
    negative: bool
    shown: bool
    arrow: str = ""


def strongest_edges(edges: PathPatching | None) -> list[Effect]:
    """The single edges of largest mean effect, strongest first, at most `MAX_EDGES`; those without any are left out."""
    if edges is None or any(len(parts) != 1 for parts in edges.edges.values()):
        return []
    effects = edges.effects(METRIC)
    means = effects.mean(-1).flatten()
    order = means.abs().argsort(descending=True, stable=True)[:MAX_EDGES]
    order = order[means[order] != 0]
    interval = mean_interval(effects.flatten(0, 1)[order])
    singles = [parts[0] for parts in edges.edges.values()]
    found = []
    for k, cell in enumerate(order.tolist()):
        edge, position = divmod(cell, len(edges.position_names))
        found.append(
            Effect(
                writer=singles[edge].writer.label,
                reader=singles[edge].reader.label,
                position=edges.position_names[position],
                mean=float(interval.mean[k]),
                low=float(interval.low[k]),
                high=float(interval.high[k]),
            )
        )
    return found


def edge_ends(effect: Effect, net: Net) -> tuple[str, str]:
    """Ids of the nodes that an edge joins."""
    lane = net.lanes.index(effect.position)
    embed = effect.writer == "embed"
    return (
        net.state_id(net.stages[0], lane) if embed else net.component_id(effect.writer, lane),
        "answer" if effect.reader == "logits" else net.component_id(effect.reading_component, lane),
    )


def edge_table(result: PathPatching | None, strongest: Sequence[Effect], net: Net) -> dict[str, Any] | None:
    """The edges for the page's script.

    Args:
        result: Path patching; None without.
        strongest: Those in the page.
        net: The net.

    Returns:
        What was patched, and for each edge: ids of both ends, name, effect, low, high; None without.
    """
    if result is None:
        return None
    row = METRICS.index(METRIC)
    return {
        "unit": METRIC_UNITS[METRIC],
        "direction": result.direction,
        "corruption": result.corruption,
        "n": result.values.shape[-1],
        "receiving": short(float(result.receiving[row].mean())),
        "lending": short(float(result.lending[row].mean())),
        "measured": len(result.edges) * len(result.position_names),
        "list": [[*edge_ends(e, net), e.name, *short_all([e.mean, e.low, e.high])] for e in strongest],
    }


def edge_lines(strongest: Sequence[Effect], layout: Layout, net: Net) -> list[Line]:
    """The edges as drawn, from the top of the writer to the bottom of the reader.

    The width grows with the square root of the effect: one edge is often ten times stronger than the next.
    """
    largest = max((abs(effect.mean) for effect in strongest), default=1.0)
    return [
        Line(
            path=_edge_path(effect, layout, net),
            width=round(max(_THINNEST, _WIDEST * (abs(effect.mean) / largest) ** 0.5), 1),
            negative=effect.mean < 0,
            shown=number < SHOWN_AT_FIRST,
        )
        for number, effect in enumerate(strongest)
    ]


def _edge_path(effect: Effect, layout: Layout, net: Net) -> str:
    """A curve that leaves and enters upright, and swerves to the right around the layers it passes."""
    lane = net.lanes.index(effect.position)
    from_embedding, to_answer = effect.writer == "embed", effect.reader == "logits"
    start = layout.states[net.stages[0], lane] if from_embedding else layout.components[effect.writer, lane]
    end = layout.answer if to_answer else layout.components[effect.reading_component, lane]
    x1, y1 = (start.right, start.y) if from_embedding else (start.x, start.top)
    port = _PORT.get(effect.reader.partition(" ")[0], 0.0) * end.width
    x2, y2 = (end.right, end.y) if to_answer else (end.x + port, end.bottom)
    rise = y1 - y2
    swerve = 0.0 if rise < 110 else min(46.0, rise / 7)
    c1 = (max(x2, x1 + 24), y1) if from_embedding else (x1 + swerve, y1 - 0.45 * rise)
    c2 = (x1 + swerve, y2) if to_answer else (x2 + swerve, y2 + 0.45 * rise)
    return _curve((x1, y1), c1, c2, (x2, y2))


def _curve(*points: tuple[float, float]) -> str:
    start, c1, c2, end = (f"{x:.0f} {y:.0f}" for x, y in points)
    return f"M{start}C{c1} {c2} {end}"


def looks(heads: AttentionPatterns | None, net: Net) -> list[dict[str, Any]]:
    """Where heads look at another position more than a uniform head would: a reading, not causal evidence.

    Args:
        heads: Mean attention patterns; None without.
        net: The net.

    Returns:
        One for each layer and pair of positions at which the lower end of some head's interval is above the uniform
        weight: `layer`, `src` and `dest` (names), `uniform`, and `heads`, strongest first: name, weight, low, high.
    """
    if heads is None:
        return []
    found: dict[tuple[int, str, str], dict[str, Any]] = {}
    rows = heads.frame().sort_values("weight", ascending=False, kind="stable")
    for row in rows.to_dict("records"):
        ends = row["src"], row["dest"]
        if row["low"] <= row["uniform"] or ends[0] == ends[1] or not set(ends) <= set(net.positions):
            continue
        empty = {"layer": row["layer"], "src": ends[0], "dest": ends[1], "uniform": short(row["uniform"]), "heads": []}
        look = found.setdefault((row["layer"], *ends), empty)
        look["heads"].append([f"{row['layer']}.{row['head']}", *short_all([row["weight"], row["low"], row["high"]])])
    return sorted(found.values(), key=lambda look: look["layer"])


def look_lines(found: Sequence[dict[str, Any]], layout: Layout, net: Net) -> list[Line]:
    """A line for each look: from the state that is read at the source to the (strongest) head at the destination."""
    lines = []
    for look in found:
        stage = net.stages[next(gap for gap, layers in enumerate(net.layers) if look["layer"] in layers)]
        src, dest = net.positions.index(look["src"]), net.positions.index(look["dest"])
        name, weight = look["heads"][0][:2]
        attention = layout.components.get((f"attn {look['layer']}", dest))
        node = attention or layout.components[f"head {name}", dest]
        path, arrow = _look_path(layout.states[stage, src], node, forwards=dest > src, steps=abs(dest - src))
        lines.append(Line(path, width=round(max(_THINNEST, 4 * weight), 1), negative=False, shown=True, arrow=arrow))
    return lines


def _look_path(state: Box, head: Box, *, forwards: bool, steps: int) -> tuple[str, str]:
    """Along the level of the states, below those in between, and up into the head; and the point of the arrow."""
    sag = 0.0 if steps == 1 else 30.0
    x1 = state.right if forwards else state.left
    y1 = state.y + 8
    x2, y2 = head.left + 9, head.bottom + 2
    c1 = (x1 + (x2 - x1) * 0.5, y1 + sag)
    c2 = (x2, y1 + sag + 10)
    return _curve((x1, y1), c1, c2, (x2, y2)), f"M{x2 - 4:.0f} {y2 + 6:.0f}l4 -6l4 6"
