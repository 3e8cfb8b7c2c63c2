"""Write docs/map.md: each folder and module of the library in one line, from its docstring.

Run by `make docs`; a test holds the committed page equal to what this gives.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "circuit_lab"
PAGE = ROOT / "docs" / "map.md"
ORDER = (
    "tasks",
    "nets",
    "training",
    "sweeps",
    "measures",
    "verdict",
    "importers",
    "report",
    "exporters",
    "studies",
    "cli",
)
"""From what needs nothing to what needs everything; a new sub-package must be given its place."""
INTRODUCTION = """# Map of the code

Each folder and module in one line: the first line of its docstring.
Written by `docs/code_map.py` (`make docs`), not by hand.

Imports point one way:
tasks, nets < training, measures < verdict, importers, sweeps < report, exporters < studies < cli.
"""


def page() -> str:
    """The page."""
    packages = sorted((file.parent for file in PACKAGE.rglob("__init__.py")), key=_place)
    return "\n".join([INTRODUCTION, *(_section(package) for package in packages)])


def _place(package: Path) -> tuple[int, str]:
    """The library itself, then its sub-packages in `ORDER`, each before those inside it."""
    inside = package.relative_to(PACKAGE)
    return (ORDER.index(inside.parts[0]) if inside.parts else -1), inside.as_posix()


def _section(package: Path) -> str:
    modules = [file for file in sorted(package.glob("*.py")) if file.name != "__init__.py"]
    rows = [f"| `{module.name}` | {first_line(module)} |" for module in modules]
    table = ["| module | holds |", "|---|---|", *rows, ""] if rows else []
    name = package.relative_to(ROOT).as_posix()
    return "\n".join([f"## `{name}/`", "", first_line(package / "__init__.py"), "", *table])


def first_line(module: Path) -> str:
    """The first line of a module's docstring, fit for a cell of a table.

    Args:
        module: A Python file.

    Returns:
        The line.

    Raises:
        ValueError: If the module has no docstring.
    """
    docstring = ast.get_docstring(ast.parse(module.read_text()))
    if docstring is None:
        raise ValueError(f"{module} has no docstring; its first line is shown in docs/map.md")
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return paragraph.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
