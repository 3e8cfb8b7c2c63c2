"""Finding studies: `analyses/<name>/study.py`, in an installed wheel or in a clone of the repository."""

import importlib.util
from functools import cache
from pathlib import Path

from circuit_lab.errors import InputError
from circuit_lab.studies.study import Study

_PACKAGE = Path(__file__).resolve().parents[1]
_HOMES = (_PACKAGE / "analyses", _PACKAGE.parent / "analyses")
"""Inside an installed wheel, and in a clone of the repository."""
STUDY_FILE = "study.py"
_DECLARATION = "STUDY = Study("


def analyses_folder() -> Path:
    """The folder that holds the studies."""
    return next((home for home in _HOMES if home.is_dir()), _HOMES[-1])


def study_names() -> tuple[str, ...]:
    """Names of the studies, sorted; a folder whose script declares none is not one."""
    return tuple(
        sorted(path.parent.name for path in analyses_folder().glob(f"*/{STUDY_FILE}") if _declares_study(path))
    )


def _declares_study(path: Path) -> bool:
    return _DECLARATION in path.read_text(encoding="utf-8")


@cache
def find_study(name: str) -> Study:
    """Load a study.

    Args:
        name: One of `study_names()`.

    Returns:
        The study.

    Raises:
        InputError: If there is no such study; the message lists the names.
    """
    if name not in study_names():
        raise InputError(f"unknown study {name!r}; the studies are: {', '.join(study_names())}")
    path = analyses_folder() / name / STUDY_FILE
    spec = importlib.util.spec_from_file_location(f"circuit_lab_study_{name}", path)
    assert spec is not None and spec.loader is not None, "a Python file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    study = module.STUDY
    assert isinstance(study, Study) and study.name == name, f"{path} declares STUDY with the name of its folder"
    return study
