"""One HTML page over diagnoses, with plotly's script inlined once, so that it opens without a network."""

from collections.abc import Sequence
from pathlib import Path

import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from circuit_lab.report.figures import bridge_lens_figure, outcomes_figure, site_rates_figure
from circuit_lab.verdict import Diagnosis


def write_report(diagnoses: Sequence[Diagnosis], path: str | Path) -> Path:
    """Write one page with a section per diagnosis.

    Args:
        diagnoses: At least one diagnosis.
        path: File to write; parent folders are made.

    Returns:
        The path written.

    Raises:
        ValueError: If there is nothing to report or the path is a folder.
    """
    path = Path(path)
    if not diagnoses:
        raise ValueError("a report needs at least one diagnosis, got none")
    if path.is_dir():
        raise ValueError(
            f"cannot write the report to {path}: it is a folder; name a file such as {path / 'report.html'}"
        )
    sections = [{"diagnosis": d, "figures": _figures(d)} for d in diagnoses]
    # plotly's own script: trusted, and it must not be escaped.
    html = _template("page.html").render(sections=sections, plotly_js=Markup(get_plotlyjs()))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)
    return path


def render_fragment(diagnosis: Diagnosis) -> str:
    """The verdict, its reasons and the outcome table as HTML, for a notebook cell."""
    return _template("fragment.html").render(diagnosis=diagnosis)


def _template(name: str):
    environment = Environment(
        loader=PackageLoader("circuit_lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(name)


def _figures(diagnosis: Diagnosis) -> list[Markup]:
    """The section's figures as HTML that expects plotly's script in the page."""
    measured = diagnosis.measurements
    figures = [outcomes_figure(diagnosis)]
    if measured.located.candidates:  # a net of one layer has none
        figures.append(site_rates_figure(measured.located))
    figures += [bridge_lens_figure(measured.lens[s], split=s) for s in ("test_id", "test_ood") if s in measured.lens]
    return [Markup(plotly.io.to_html(figure, include_plotlyjs=False, full_html=False)) for figure in figures]
