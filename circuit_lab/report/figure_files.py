"""Figures as files: one interactive page, or an SVG for each."""

import re
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import plotly.io
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from circuit_lab.errors import InputError
from circuit_lab.report.templating import template

_SVG_ID = re.compile(rb"(defs-|clip|legend|cb|trace|\bg)([0-9a-f]{6})")


def write_figure_page(figures: Mapping[str, go.Figure], path: Path, *, title: str) -> Path:
    """One page of interactive figures, with plotly's script inlined once.

    Args:
        figures: Name -> figure.
        path: The file.
        title: What stands above them.

    Returns:
        The file.
    """
    drawn = [Markup(plotly.io.to_html(f, include_plotlyjs=False, full_html=False)) for f in figures.values()]
    page = template("figures.html").render(title=title, figures=drawn, plotly_js=Markup(get_plotlyjs()))
    path.write_text(page, encoding="utf-8")
    return path


def write_svgs(figures: Mapping[str, go.Figure], folder: Path) -> dict[str, Path]:
    """One SVG for each figure, the same bytes for the same figure.

    Args:
        figures: Name -> figure.
        folder: Where they go.

    Returns:
        Name -> file.

    Raises:
        InputError: If kaleido or its browser is missing.
    """
    paths = {}
    for name, figure in figures.items():
        try:
            image = figure.to_image(format="svg")
        except (ImportError, RuntimeError, ValueError) as error:
            raise InputError(
                f"cannot draw {name}.svg: {str(error).strip().splitlines()[0]}; pip install 'circuit-lab[docs]' and a "
                "Chromium, or leave --svg out for an HTML page"
            ) from error
        paths[name] = folder / f"{name}.svg"
        paths[name].write_bytes(_with_stable_ids(image))
    return paths


def _with_stable_ids(svg: bytes) -> bytes:
    """plotly.js gives every drawing and trace a random id; number them instead."""
    numbers: dict[bytes, bytes] = {}

    def numbered(found: re.Match[bytes]) -> bytes:
        return found[1] + numbers.setdefault(found[2], b"%06d" % len(numbers))

    return _SVG_ID.sub(numbered, svg)
