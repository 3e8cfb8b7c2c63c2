"""The stored results of a study: measurements as CSV, where they come from as JSON, figures beside them."""

import math
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from circuit_lab.errors import InputError
from circuit_lab.studies.study import COLUMNS
from circuit_lab.training import write_atomically

MEASUREMENTS, PROVENANCE = "measurements.csv", "provenance.json"
_DIGITS = 6
"""Significant digits that are stored; more would differ between machines."""
_CLONE = Path(__file__).resolve().parents[2]
"""The folder that holds the package: that of a clone, or `site-packages`."""
_MEASURES = ("circuit_lab/*.py", "circuit_lab/*.toml", "analyses/*.py", "analyses/*.toml")
"""Files of a clone that decide a measurement, at any depth; results beside a study are none of them."""


class Provenance(BaseModel):
    """What made a result.

    Attributes:
        study: Name of the study.
        scale: Its scale.
        seeds: Seeds of its runs.
        command: What makes it again.
        commit: Commit of the code that measured, with "+" where code, studies or recipes differed from it; "unknown"
            outside a clone.
        machine: Kind of machine, such as "x86_64, 2 cores".
        versions: Of this library and of torch.
        n_training_steps: Optimiser steps of all runs that were measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: str
    scale: str
    seeds: list[int]
    command: str
    commit: str
    machine: str
    versions: dict[str, str]
    n_training_steps: int


@dataclass(frozen=True, eq=False)
class StudyResults:
    """Measurements of a study and where they come from."""

    measurements: pd.DataFrame
    provenance: Provenance


def checked(rows: pd.DataFrame, *, study: str, seed: int) -> pd.DataFrame:
    """One seed's measurements, with the columns that all have in front, and numbers to six digits.

    Args:
        rows: As a study measured them.
        study: Its name, for the message.
        seed: Their seed, which becomes a column.

    Returns:
        A new table.

    Raises:
        ValueError: If a column is missing.
    """
    missing = [name for name in COLUMNS if name not in rows]
    if missing:
        raise ValueError(f"the measurements of {study} lack the columns {missing}; they have {list(rows.columns)}")
    others = [name for name in rows.columns if name not in (*COLUMNS, "seed")]
    columns = {"seed": [seed] * len(rows)} | {name: list(rows[name]) for name in (*COLUMNS, *others)}
    return pd.DataFrame(
        {name: [_rounded(v) if isinstance(v, float) else v for v in values] for name, values in columns.items()}
    )


def _rounded(value: float) -> float:
    return value if not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def write_results(results: StudyResults, folder: Path) -> tuple[Path, Path]:
    """Write measurements and provenance, each whole or not at all.

    Args:
        results: What to write.
        folder: Where to; made if need be.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measurements, provenance = folder / MEASUREMENTS, folder / PROVENANCE
    write_atomically(measurements, as_csv(results.measurements))
    write_atomically(provenance, (results.provenance.model_dump_json(indent=1) + "\n").encode())
    return measurements, provenance


def read_results(folder: Path) -> StudyResults:
    """Read stored results.

    Args:
        folder: Where `write_results` wrote.

    Returns:
        The results.

    Raises:
        InputError: If a file is missing or malformed.
    """
    try:
        provenance = Provenance.model_validate_json((folder / PROVENANCE).read_bytes())
        measurements = read_table(folder / MEASUREMENTS)
    except (OSError, ValueError, ValidationError) as error:
        raise InputError(f"{folder} holds no results of a study: {str(error).splitlines()[0]}") from error
    return StudyResults(measurements, provenance)


def as_csv(table: pd.DataFrame) -> bytes:
    """Measurements as CSV, in which a missing number differs from an empty text."""
    return table.to_csv(index=False, lineterminator="\n", na_rep="nan").encode()


def read_table(path: Path) -> pd.DataFrame:
    """Measurements from CSV; what is text stays text, an empty split too, and what is not a number is `nan`."""
    table = pd.read_csv(path, keep_default_na=False, na_values=["nan"])
    missing = [name for name in ("seed", *COLUMNS) if name not in table]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}")
    return table


def machine_in_words() -> str:
    """The kind of this machine: processor, cores, accelerator."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = f"{platform.machine()}, {cores} cores"
    return f"{words}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else words


def commit_in_words(folder: Path = _CLONE) -> str:
    """The commit of a clone.

    Args:
        folder: What holds the package.

    Returns:
        Its commit, with "+" where code, studies or recipes differ from it, new ones too; "unknown" where the folder is
        not itself a repository, such as an environment inside the repository of another project.
    """

    def git(*words: str) -> str:
        run = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=all", "--", *_MEASURES)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions that decide the numbers."""
    return {"circuit-lab": version("circuit-lab"), "torch": torch.__version__}
