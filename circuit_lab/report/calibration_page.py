"""A calibration as a folder: the result as JSON, a README with its tables, and the figures."""

import re
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import plotly.io
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from circuit_lab.report.figures import calibration_figures
from circuit_lab.report.templating import template
from circuit_lab.verdict.calibration import Calibration

RESULT_FILE, README_FILE, FIGURES_FILE = "calibration.json", "README.md", "figures.html"
_SVG_ID = re.compile(rb"(defs-|clip|legend|cb|trace|\bg)([0-9a-f]{6})")


def write_calibration(calibration: Calibration, folder: Path, *, svg: bool) -> tuple[Path, ...]:
    """Write the result, its tables and its figures.

    Args:
        calibration: The result.
        folder: Where to; made if need be.
        svg: Figures as SVG files that the README shows; else as one interactive page beside it.

    Returns:
        The files written.

    Where SVG is asked for and kaleido or its browser is missing, that is a ValueError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = calibration_figures(calibration)
    images = _write_svgs(figures, folder) if svg else {}
    written = [*images.values()] if svg else [_write_page(figures, folder / FIGURES_FILE)]
    result, readme = folder / RESULT_FILE, folder / README_FILE
    result.write_text(calibration.to_json(), encoding="utf-8")
    readme.write_text(calibration_readme(calibration, images=tuple(images)), encoding="utf-8")
    return (result, readme, *written)


def calibration_readme(calibration: Calibration, *, images: tuple[str, ...] = ()) -> str:
    """The tables of a calibration in Markdown.

    Args:
        calibration: The result.
        images: Names of the figures that lie beside it as SVG; without any it names the page of figures.

    Returns:
        The text.
    """
    return template("calibration.md").render(c=calibration, images=images, page=FIGURES_FILE)


def _write_page(figures: Mapping[str, go.Figure], path: Path) -> Path:
    """One page of interactive figures, with plotly's script inlined once."""
    drawn = [Markup(plotly.io.to_html(f, include_plotlyjs=False, full_html=False)) for f in figures.values()]
    page = template("figures.html").render(figures=drawn, plotly_js=Markup(get_plotlyjs()))
    path.write_text(page, encoding="utf-8")
    return path


def _write_svgs(figures: Mapping[str, go.Figure], folder: Path) -> dict[str, Path]:
    """One SVG for each figure, the same bytes for the same figure."""
    paths = {}
    for name, figure in figures.items():
        try:
            image = figure.to_image(format="svg")
        except (ImportError, RuntimeError, ValueError) as error:
            raise ValueError(
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
