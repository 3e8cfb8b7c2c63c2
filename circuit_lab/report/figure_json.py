"""Figures as small JSON: no template, four significant digits, and large arrays as base64 that `report.js` unpacks.

A packed array is `{"packed": base64, "bits": 8 or 16, "low": low, "step": step, "shape": [...]}` of little-endian
unsigned integers k, each of which stands for `low + k * step`; the largest k of its width stands for a missing value.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuit_lab.report.figures.style import _TITLE_COLUMNS

_DIGITS = 4
_OFF_STEP = 1e-3
"""How far from a whole step an evenly spaced value may lie, in steps."""
_MIN_PACKED = 400
"""Numbers from which an array is packed: below, text is as small and can be read."""
_LEVELS, _FEW_LEVELS, _MANY = 1000, 250, 2_000
"""Steps between the smallest and the largest number of a packed array; fewer of many numbers, read by their colour."""
_DEFAULT_HEIGHT, _DEFAULT_TOP = 450, 100
"""plotly's own height and margin above, in pixels."""
_MIN_TOP, _TITLE_TOP, _TITLE_LINE = 36, 64, 20
"""Margin that must stay above (names of panels stand there), and what a title of one line, and each further, took."""


@dataclass(frozen=True)
class PageFigure:
    """A figure as a page holds it.

    Attributes:
        name: Its name, unique in its section.
        title: Lines of its title, which the page sets as text, so that it wraps and can be read aloud.
        height: Pixels.
        json: Data and layout for plotly.js.
    """

    name: str
    title: tuple[str, ...]
    height: int
    json: dict[str, Any]


def page_figure(name: str, figure: go.Figure) -> PageFigure:
    """A figure as a page holds it.

    Args:
        name: Its name in the section.
        figure: The figure, which is left as it is.

    Returns:
        Its title and small JSON.
    """
    drawn: Any = figure  # plotly's own types say less than it has
    layout = drawn.layout.to_plotly_json()
    title = (layout.pop("title", None) or {}).get("text") or ""
    layout.pop("template", None)
    height = layout.get("height") or _DEFAULT_HEIGHT
    top = layout.get("margin", {}).get("t", _DEFAULT_TOP)
    room = max(min(top - _MIN_TOP, _TITLE_TOP + _TITLE_LINE * title.count("<br>")), 0) if title else 0
    layout |= {"height": height - room, "margin": layout.get("margin", {}) | {"t": top - room}}
    traces = [trace.to_plotly_json() for trace in drawn.data]
    return PageFigure(
        name=name,
        title=unwrapped(title),
        height=round(height - room),
        json={"data": _small(traces), "layout": _small(layout)},
    )


def unwrapped(title: str) -> tuple[str, ...]:
    """The lines of a title that were meant as lines, without the breaks that `style.wrapped` put in for want of room.

    Args:
        title: Lines with `<br>` between them.

    Returns:
        The lines.

    >>> unwrapped("above<br>below")
    ('above', 'below')
    """
    first, *others = title.split("<br>")
    lines, last = [first], first
    for line in others:
        if len(last) + 1 + len(line.partition(" ")[0]) > _TITLE_COLUMNS:  # its first word had no room in the last
            lines[-1] += f" {line}"
        else:
            lines.append(line)
        last = line
    return tuple(lines)


def _small(value: Any) -> Any:
    """The same value with short numbers and packed arrays."""
    if isinstance(value, Mapping):
        return {key: _small(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _small_array(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_small(inner) for inner in value]
    if isinstance(value, np.generic):
        return _small(value.item())
    return short_number(value) if isinstance(value, float) else value


def _small_array(array: np.ndarray) -> Any:
    if array.dtype.kind not in "fiub" or array.size < _MIN_PACKED:
        return _small(array.tolist())
    return packed(array)


def short_number(value: float) -> float | int | None:
    """A number in as few characters as its first four digits need.

    Args:
        value: The number.

    Returns:
        An integer where it is one, None where it is not finite.

    >>> [short_number(x) for x in (0.123456, 12000.0, float("nan"))]
    [0.1235, 12000, None]
    """
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else float(f"{value:.{_DIGITS}g}")


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array of numbers as base64 text: few, evenly spaced values exactly, others to a part of their range.

    Args:
        array: Numbers of any shape; what is not finite is missing.

    Returns:
        The object that `report.js` unpacks; the error is at most half of `step`.
    """
    values = array.astype(float)
    there = np.isfinite(values)
    levels = np.unique(values[there])
    low, high = (float(levels[0]), float(levels[-1])) if levels.size else (0.0, 0.0)
    step = float(np.diff(levels).min()) if levels.size > 1 else 1.0
    spaced = (levels - low) / step
    even = high - low < 254.5 * step and bool(np.allclose(spaced, spaced.round(), rtol=0, atol=_OFF_STEP))
    n_levels = _FEW_LEVELS if array.size > _MANY else _LEVELS
    bits = 8 if even or n_levels < 255 else 16
    missing = 2**bits - 1
    step = step if even else (high - low) / n_levels
    numbers = np.where(there, np.round((np.where(there, values, low) - low) / step), missing)
    text = base64.b64encode(numbers.astype("u1" if bits == 8 else "<u2").tobytes()).decode()
    return {"packed": text, "bits": bits, "low": low, "step": step, "shape": list(array.shape)}
