"""The streams of a circuit diagram: one line per position, or what each step of a recursive net reads."""

from dataclasses import dataclass

from circuit_lab.report.circuit.layout import Box, Layout
from circuit_lab.report.circuit.net import Net

_RAIL = 9.0
"""How far beside a column a line runs that passes by states in between."""


@dataclass(frozen=True)
class StreamName:
    """A stream's name at the foot of its column.

    Attributes:
        text: The name.
        x: Its middle.
        y: Its base line.
    """

    text: str
    x: float
    y: float


def stream_paths(net: Net, layout: Layout) -> list[str]:
    """SVG paths of the streams at every position.

    Args:
        net: The net.
        layout: Where its states stand.

    Returns:
        Of a net with one stream a line for each position; of a recursive net one from each state to each state that is
        made of it. The one in which the answer is read goes on to the answer.
    """
    paths = []
    for lane in range(len(net.positions)):
        boxes = [layout.states[stage, lane] for stage in net.stages]
        top = layout.answer.y if lane == net.answer_lane else boxes[-1].y
        if net.has_two_streams:
            paths += [_read(boxes, i, later) for later, read in enumerate(net.reads) for i in read]
            paths += [f"M{boxes[-1].x:.0f} {boxes[-1].y:.0f}V{top:.0f}"] if lane == net.answer_lane else []
        else:
            paths.append(f"M{boxes[0].x} {boxes[0].y}V{top}")
    return paths


def _read(boxes: list[Box], earlier: int, later: int) -> str:
    """From a state's upper to another's lower edge; beside the columns where other states stand in the way."""
    start, end = boxes[earlier], boxes[later]
    if later == earlier + 1 or all(box.x != end.x for box in boxes[earlier + 1 : later]):
        return f"M{start.x:.0f} {start.top:.0f}L{end.x:.0f} {end.bottom:.0f}"
    # The input and z_H stand to the right of z_L: what it reads again comes up between the columns.
    rail = end.right + _RAIL
    return (
        f"M{start.x:.0f} {start.top:.0f}L{rail:.0f} {start.top - _RAIL:.0f}V{end.bottom + 2 * _RAIL:.0f}"
        f"L{end.x + end.width / 4:.0f} {end.bottom:.0f}"
    )


def stream_names(net: Net, layout: Layout) -> list[StreamName]:
    """The names of a recursive net's streams, beside the input at the foot of each position; none of one stream."""
    if not net.has_two_streams:
        return []
    names = []
    for lane in range(len(net.positions)):
        foot = layout.states[net.stages[0], lane]
        for column, text in ((0.0, "z_L"), (1.0, "z_H")):
            x = layout.states[net.stages[net.columns.index(column)], lane].x
            names.append(StreamName(text, x + (18 if column else -18), foot.y + 4))
    return names
