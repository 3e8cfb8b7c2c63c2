"""Where the parts of a circuit diagram stand. Units are pixels of the drawing; y grows downwards, as in SVG.

1. One *lane* per position. In a lane the residual stream runs upwards on the left, with a state node at each stage; to
   its right stand the components that read and write between two stages: heads in rows of four, then the MLP. Two
   streams run side by side, each in a *column* of its own, and what both read stands between them.
2. What lies between two stages is a *gap*. Stages and gaps come from the net, bottom to top; nothing is assumed of
   their names or number.
3. The answer stands on top of the stream of the position at which it is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STATE_WIDTH, STATE_HEIGHT = 66.0, 44.0
COMPONENT_HEIGHT, HEAD_WIDTH, MLP_WIDTH = 20.0, 26.0, 38.0
PLAIN_HEIGHT = 26.0
"""Of a state at which nothing is tested."""
HEADS_IN_A_ROW = 4
_CHARACTER = 6.4
"""Width of a character of the labels, on the safe side."""
_BETWEEN_COLUMNS = 18.0
_SPACE, _BETWEEN_ROWS, _LANE_PADDING, _BESIDE, _BULGE = 4.0, 14.0, 9.0, 12.0, 30.0
_BELOW_COMPONENTS, _ABOVE_COMPONENTS, _EMPTY_GAP = 14.0, 6.0, 34.0
_TOP, _BOTTOM = 14.0, 34.0


@dataclass(frozen=True)
class Box:
    """A rectangle, by its centre."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> float:
        """Its left side."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """Its right side."""
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        """Its upper side, the smaller y."""
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        """Its lower side."""
        return self.y + self.height / 2

    def overlaps(self, other: "Box") -> bool:
        """Whether the two share an area."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True)
class Component:
    """A part of the net between two stages.

    Attributes:
        name: Its name, such as "head 1.0"; unique in the net.
        text: What its node says.
        row: Components with the same number stand side by side; higher numbers come later.
        wide: Whether it takes an MLP's width rather than a head's.
        at_right: Whether its row ends at the right end of the room for components, rather than starting at the left.
    """

    name: str
    text: str
    row: int
    wide: bool
    at_right: bool = False


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        width: Of the drawing.
        height: Of the drawing.
        states: (stage, lane) -> state node.
        components: (component, lane) -> its node.
        answer: The answer's node.
        lanes: Each lane's background.
        gaps: Middle of each gap between two stages, y.
        gutter: Where labels of rows end, x.
    """

    width: float
    height: float
    states: Mapping[tuple[str, int], Box]
    components: Mapping[tuple[str, int], Box]
    answer: Box
    lanes: tuple[Box, ...]
    gaps: tuple[float, ...]
    gutter: float

    @property
    def nodes(self) -> tuple[Box, ...]:
        """All nodes."""
        return (*self.states.values(), *self.components.values(), self.answer)


def lay_out(
    stages: Sequence[str],
    gaps: Sequence[Sequence[Component]],
    *,
    n_lanes: int,
    answer_lane: int,
    has_brackets: bool,
    columns: Sequence[float] | None = None,
) -> Layout:
    """Place the nodes of a net.

    Args:
        stages: Labels of the stages, input to output, at least one.
        gaps: The components between each stage and the next, one fewer than stages.
        n_lanes: Number of positions.
        answer_lane: The position at which the answer is read.
        has_brackets: Whether room is left for the brackets of the passes.
        columns: Column of each stage, from 0; one half stands between two of them. All in one by default.

    Returns:
        The layout.
    """
    assert len(gaps) == len(stages) - 1, (len(gaps), len(stages))
    columns = [0.0] * len(stages) if columns is None else columns
    to_last_column = max(columns) * (STATE_WIDTH + _BETWEEN_COLUMNS)
    rows = [_rows(gap) for gap in gaps]
    breadth = max((_row_width(row) for gap in rows for row in gap), default=0.0)
    if breadth and any(part.at_right for gap in gaps for part in gap):
        breadth = max(breadth, 2 * MLP_WIDTH + _SPACE)  # so that what stands left and right is side by side
    beside = breadth + _BULGE + _BESIDE if breadth else 0.0
    lane_width = 2 * _LANE_PADDING + STATE_WIDTH + to_last_column + beside
    longest = max(len(label) for label in (*stages, "layer 10, block 10"))
    gutter = (24 if has_brackets else 4) + _CHARACTER * min(longest, MAX_LABEL)
    heights = [_gap_height(len(gap)) for gap in rows]
    column_height = sum(heights) + STATE_HEIGHT * len(stages)
    answer_room = STATE_HEIGHT + _EMPTY_GAP
    top_of_states = _TOP + answer_room
    height = top_of_states + column_height + _BOTTOM
    lefts = [gutter + 10 + lane * (lane_width + 10) for lane in range(n_lanes)]
    streams = [left + _LANE_PADDING + STATE_WIDTH / 2 for left in lefts]
    states, components, middles = {}, {}, []
    y = top_of_states + column_height - STATE_HEIGHT / 2
    for i, stage in enumerate(stages):
        for lane, x in enumerate(streams):
            states[stage, lane] = Box(x + columns[i] * (STATE_WIDTH + _BETWEEN_COLUMNS), y, STATE_WIDTH, STATE_HEIGHT)
        if i == len(rows):
            break
        bottom = y - _BELOW_COMPONENTS
        for number, row in enumerate(rows[i]):
            row_y = bottom - COMPONENT_HEIGHT / 2 - number * (COMPONENT_HEIGHT + _BETWEEN_ROWS)
            for lane, x in enumerate(streams):
                left = (
                    x
                    + to_last_column
                    + STATE_WIDTH / 2
                    + _BESIDE
                    + (breadth - _row_width(row) if row[0].at_right else 0)
                )
                components |= _place(row, row_y, lane, left)
        middles.append(y - (STATE_HEIGHT + heights[i]) / 2)
        y -= STATE_HEIGHT + heights[i]
    return Layout(
        width=lefts[-1] + lane_width + 6,
        height=height,
        states=states,
        components=components,
        answer=Box(states[stages[-1], answer_lane].x, _TOP + STATE_HEIGHT / 2, STATE_WIDTH, STATE_HEIGHT),
        lanes=tuple(
            Box(left + lane_width / 2, (top_of_states + height) / 2 - 6, lane_width, height - top_of_states + 4)
            for left in lefts
        ),
        gaps=tuple(middles),
        gutter=gutter,
    )


MAX_LABEL = 22
"""Longer labels of rows are cut."""


def cut(label: str, n: int = MAX_LABEL) -> str:
    """A label of at most n characters.

    >>> cut("resid_post 0"), cut("resid_post of the first stream", 10)
    ('resid_post 0', 'resid_pos…')
    """
    return label if len(label) <= n else label[: n - 1] + "…"


def _rows(gap: Sequence[Component]) -> list[list[Component]]:
    """The components in rows, bottom to top, at most `HEADS_IN_A_ROW` side by side."""
    rows = []
    for number in sorted({component.row for component in gap}):
        row = [component for component in gap if component.row == number]
        rows += [row[i : i + HEADS_IN_A_ROW] for i in range(0, len(row), HEADS_IN_A_ROW)]
    return rows


def _width(component: Component) -> float:
    return MLP_WIDTH if component.wide else HEAD_WIDTH


def _row_width(row: Sequence[Component]) -> float:
    return sum(_width(component) for component in row) + _SPACE * (len(row) - 1)


def _place(row: Sequence[Component], y: float, lane: int, left: float) -> dict[tuple[str, int], Box]:
    """The nodes of a row, from `left` on."""
    placed = {}
    for component in row:
        width = _width(component)
        placed[component.name, lane] = Box(left + width / 2, y, width, COMPONENT_HEIGHT)
        left += width + _SPACE
    return placed


def _gap_height(n_rows: int) -> float:
    """Height between two states: their components stand beside the stream, and may reach beside the states."""
    if n_rows == 0:
        return _EMPTY_GAP
    needed = n_rows * COMPONENT_HEIGHT + (n_rows - 1) * _BETWEEN_ROWS + _BELOW_COMPONENTS + _ABOVE_COMPONENTS
    return max(_EMPTY_GAP, needed + _ABOVE_COMPONENTS - STATE_HEIGHT / 2)


@dataclass(frozen=True)
class Bracket:
    """One pass through shared blocks: its name, and the first and last gap it spans."""

    name: str
    first: int
    last: int


def passes(layer_map: Sequence[int]) -> tuple[Bracket, ...]:
    """The passes of a net whose layers share blocks; none if no block is used twice.

    The n-th use of a block belongs to pass n; neighbouring layers of the same pass make one bracket.

    Args:
        layer_map: The block of each effective layer.

    Returns:
        The brackets, over layers.

    >>> [(b.name, b.first, b.last) for b in passes((0, 1, 0, 1))]
    [('pass 1', 0, 1), ('pass 2', 2, 3)]
    >>> passes((0, 1, 2))
    ()
    """
    if len(set(layer_map)) == len(layer_map):
        return ()
    numbers = [list(layer_map[: i + 1]).count(block) for i, block in enumerate(layer_map)]
    found: list[Bracket] = []
    for layer, number in enumerate(numbers):
        name = f"pass {number}"
        if found and found[-1].name == name and layer_map[layer] not in layer_map[found[-1].first : layer]:
            found[-1] = Bracket(name, found[-1].first, layer)
        else:
            found.append(Bracket(name, layer, layer))
    return tuple(found)
