"""One HTML page over diagnoses, runs and comparisons, with every script inlined once, so that it opens anywhere.

Everything is measured and drawn before the first byte is written. The text, tables and circuit diagrams are made here;
figures and the rest of the data lie in the page as compressed JSON, one block for each section, which
`static/report.js` reads when the section is first shown.
"""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from circuit_lab.report.scripts import SCRIPTS_FOLDER, Script, content_policy, libraries, own_scripts, styles
from circuit_lab.report.sections import CheckpointSection, make_sections, side_by_side_view
from circuit_lab.report.templating import template
from circuit_lab.training.run_folder import write_atomically
from circuit_lab.verdict import Diagnosis
from circuit_lab.verdict.comparison.side_by_side import FALSE_ALARMS, side_by_side
from circuit_lab.verdict.reported import Reported


def write_report(items: Sequence[Reported], path: str | Path, *, link_scripts: bool = False) -> Path:
    """Write one page over diagnoses, runs and comparisons, in order.

    Args:
        items: At least one. A comparison brings both of its checkpoints.
        path: File to write; parent folders are made.
        link_scripts: Write the two script libraries (6 MB) into `report_scripts/` beside the page and link them, so
            that the page is under 1 MB, instead of putting them into it. The page needs that folder then.

    Returns:
        The path written.

    Raises:
        ValueError: If there is nothing to report or the path is a folder.
    """
    path = Path(path)
    if len(items) == 0:
        raise ValueError("a report needs at least one diagnosis, got none")
    check_target(path)
    page = render_page(items, link_scripts=link_scripts).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    if link_scripts:
        folder = path.parent / SCRIPTS_FOLDER
        folder.mkdir(exist_ok=True)
        for library in libraries():
            write_atomically(folder / library.name, library.text.encode("utf-8"))
    write_atomically(path, page)
    return path


def check_target(path: Path) -> None:
    """Refuse a path that no page can be written to.

    Args:
        path: Where a report shall go.

    Raises:
        ValueError: If it is a folder, or lies in what is a file.
    """
    if path.is_dir():
        raise ValueError(
            f"cannot write the report to {path}: it is a folder; name a file such as {path / 'report.html'}"
        )
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"cannot write the report to {path}: {parent} is a file, not a folder")


def render_page(items: Sequence[Reported], *, link_scripts: bool = False) -> str:
    """The page as text; everything that it shows is measured here.

    Args:
        items: At least one.
        link_scripts: As in `write_report`.

    Returns:
        The HTML.
    """
    sections = make_sections(items)
    diagnoses = [section.diagnosis for section in sections if isinstance(section, CheckpointSection)]
    inline = [*own_scripts(), *([] if link_scripts else libraries())]
    linked = [f"{SCRIPTS_FOLDER}/{library.name}" for library in libraries()] if link_scripts else []
    return template("page.html").render(
        sections=sections,
        # Without JavaScript's help a page of one section needs no overview.
        has_overview=len(sections) > 1,
        side_by_side=[side_by_side_view(one, sections) for one in side_by_side(diagnoses)],
        false_alarms=FALSE_ALARMS,
        policy=content_policy(inline, linked=link_scripts),
        # Scripts and styles of ours and of the libraries: trusted, and they must not be escaped.
        own_scripts=[_trusted(script) for script in own_scripts()],
        libraries=[] if link_scripts else [_trusted(script) for script in libraries()],
        linked=linked,
        styles=Markup(styles()),
    )


def render_fragment(diagnosis: Diagnosis) -> str:
    """The verdict, its reasons and the outcome table as HTML, for a notebook cell."""
    return template("fragment.html").render(diagnosis=diagnosis)


def _trusted(script: Script) -> Markup:
    return Markup(script.text)
