"""Running a study: train what is missing, measure each seed, store, judge.

A stopped reproduction goes on where it was: runs continue from their last save, diagnoses are kept in the run folders,
and the measurements of a finished seed are kept beside the runs, under a key of everything that they depend on.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from circuit_lab.errors import InputError
from circuit_lab.studies.catalogue import STUDY_FILE, analyses_folder, find_study
from circuit_lab.studies.judgement import EXPECTED_FILE, Judgement, judge, read_expected
from circuit_lab.studies.lab import Lab
from circuit_lab.studies.results import (
    Provenance,
    StudyResults,
    as_csv,
    checked,
    commit_in_words,
    machine_in_words,
    read_table,
    versions,
    write_results,
)
from circuit_lab.studies.runs import recipe_at, train_runs, with_parents
from circuit_lab.studies.study import Study
from circuit_lab.training import load_checkpoint, write_atomically
from circuit_lab.verdict.source_hash import source_hash

RUNS = Path("runs/studies")
_TABLES = "tables"
_HERE = Path(__file__).parent


@dataclass(frozen=True, eq=False)
class Reproduction:
    """A study that was run.

    Attributes:
        study: The study.
        results: Its measurements and where they come from.
        judgements: What came of each claim.
        folder: Where the results were written.
    """

    study: Study
    results: StudyResults
    judgements: tuple[Judgement, ...]
    folder: Path

    @property
    def unexpected(self) -> tuple[Judgement, ...]:
        """Judgements with a number outside the band that the study expects."""
        return tuple(judgement for judgement in self.judgements if judgement.unexpected)


def reproduce(
    name: str,
    *,
    scale: str = "small",
    seeds: Sequence[int] = (0, 1, 2),
    out: Path | None = None,
    runs: Path = RUNS,
    n_jobs: int = 1,
    device: str = "auto",
    progress: bool = True,
) -> Reproduction:
    """Run a study and judge its claims.

    Args:
        name: One of `study_names()`.
        scale: One of `SCALES`.
        seeds: A seed for each repetition.
        out: Where results are written; `<runs>/<scale>/results/<name>` by default.
        runs: Where the runs of all scales lie.
        n_jobs: Processes that train and measure, each on one thread.
        device: Where nets are trained: "auto", "cpu", "cuda", "mps".
        progress: Whether to show bars with the time left.

    Returns:
        Measurements, judgements, and the folder that holds them; they are written before they are returned.

    Raises:
        InputError: If there is no such study or scale, or no seed.
    """
    study = find_study(name)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be different and at least one, got {list(seeds)}")
    folder = runs / scale
    planned = [run for seed in seeds for run in study.runs(seed)]
    train_runs(planned, folder, scale=scale, n_jobs=n_jobs, device=device, progress=progress)
    tables = tqdm(
        _measured(name, scale, seeds, folder, n_jobs),
        total=len(seeds),
        desc=f"measuring {name}",
        unit="seed",
        disable=None if progress else True,
    )
    results = StudyResults(
        measurements=pd.concat(list(tables), ignore_index=True),
        provenance=_provenance(study, scale, seeds, folder),
    )
    written = folder / "results" / name if out is None else out
    write_results(results, written)
    bands = analyses_folder() / name / EXPECTED_FILE
    expected = read_expected(bands, study) if scale == "small" and bands.is_file() else None
    return Reproduction(study, results, judge(study, results.measurements, expected), written)


def _measured(name: str, scale: str, seeds: Sequence[int], folder: Path, n_jobs: int) -> Iterator[pd.DataFrame]:
    """The measurements of each seed, in order, from this process or from several."""
    if n_jobs == 1 or len(seeds) == 1:
        for seed in seeds:
            yield measure_seed(name, scale, seed, folder)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = Parallel(n_jobs=min(n_jobs, len(seeds)), return_as="generator")
        for table in parallel(delayed(_on_one_thread)(name, scale, seed, folder) for seed in seeds):
            assert isinstance(table, pd.DataFrame), "every job gives a table"
            yield table


def _on_one_thread(name: str, scale: str, seed: int, folder: Path) -> pd.DataFrame:
    torch.set_num_threads(1)
    return measure_seed(name, scale, seed, folder)


def measure_seed(name: str, scale: str, seed: int, folder: Path) -> pd.DataFrame:
    """The measurements of one seed, kept or made now.

    Args:
        name: A study.
        scale: A scale.
        seed: A seed whose runs are trained.
        folder: Where the runs of this scale lie.

    Returns:
        Its rows, with a column `seed`.
    """
    study = find_study(name)
    kept = folder / _TABLES / name / f"seed={seed}-{_key(study, seed, folder, scale)}.csv"
    if not kept.is_file():
        table = checked(study.measure(Lab(scale, folder), seed), study=name, seed=seed)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, as_csv(table))
    return read_table(kept)


def _key(study: Study, seed: int, folder: Path, scale: str) -> str:
    """Hash of everything that the measurements of a seed depend on: code (of studies too), recipes, last weights."""
    lab = Lab(scale, folder)
    described = {
        "study": (analyses_folder() / study.name / STUDY_FILE).read_text(encoding="utf-8"),
        "code": source_hash(),
        "studies": {path.name: path.read_text(encoding="utf-8") for path in sorted(_HERE.glob("*.py"))},
        "runs": [
            [run.place, recipe_at(run, folder, scale=scale).to_toml(), load_checkpoint(lab.last(run)).weights_hash]
            for run in with_parents(study.runs(seed))
        ],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _provenance(study: Study, scale: str, seeds: Sequence[int], folder: Path) -> Provenance:
    runs = with_parents(run for seed in seeds for run in study.runs(seed))
    return Provenance(
        study=study.name,
        scale=scale,
        seeds=list(seeds),
        command=_command(study.name, scale, list(seeds)),
        commit=commit_in_words(),
        machine=machine_in_words(),
        versions=versions(),
        n_training_steps=sum(recipe_at(run, folder, scale=scale).training.n_steps for run in runs),
    )


def _command(name: str, scale: str, seeds: list[int]) -> str:
    """What measures a study again; the command line knows the seeds 0, 1, ... only."""
    if seeds == list(range(len(seeds))):
        return f"circuit-lab reproduce {name} --scale {scale} --seeds {len(seeds)}"
    call = f"reproduce({name!r}, scale={scale!r}, seeds={seeds})"
    return f'python -c "from circuit_lab.studies import reproduce; {call}"'
