"""A calibration as a folder: the result as JSON, a README with its tables, and the figures."""

from pathlib import Path

from circuit_lab.report.figure_files import write_figure_page, write_svgs
from circuit_lab.report.figures import calibration_figures
from circuit_lab.report.templating import template
from circuit_lab.verdict.calibration import Calibration

RESULT_FILE, README_FILE, FIGURES_FILE = "calibration.json", "README.md", "figures.html"


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
    images = write_svgs(figures, folder) if svg else {}
    title = "How far the verdicts can be trusted"
    written = [*images.values()] if svg else [write_figure_page(figures, folder / FIGURES_FILE, title=title)]
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
