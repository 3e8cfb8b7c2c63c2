"""A hash of the source that a diagnosis runs through: equal hashes, equal results."""

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_DIAGNOSES = ("tasks", "nets", "measures", "verdict")
_CALIBRATES = _PACKAGE / "verdict" / "calibration"


@cache
def source_hash() -> str:
    """SHA-256 of the source of tasks, nets, measures and verdict, calibration apart; one for the whole process."""
    digest = hashlib.sha256()
    for path in sorted(path for name in _DIAGNOSES for path in (_PACKAGE / name).rglob("*.py")):
        if not path.is_relative_to(_CALIBRATES):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
