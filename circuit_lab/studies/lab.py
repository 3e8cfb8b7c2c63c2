"""What a study measures with: the finished runs of a scale, and diagnoses that are kept."""

import hashlib
from pathlib import Path

import torch

from circuit_lab.studies.runs import last_checkpoint
from circuit_lab.studies.study import StudyRun
from circuit_lab.training import load_checkpoint, run_checkpoints
from circuit_lab.verdict import Diagnosis, RunDiagnosis, diagnose, diagnose_run
from circuit_lab.verdict.runs.cache import DiagnosisCache

_SETTINGS = {"seed": 0, "n_partners": 6, "max_queries_per_split": 10_000, "device": "cpu"}
"""How every checkpoint is diagnosed; those of `diagnose_run`, so that both keep the same diagnoses."""


class Lab:
    """The finished runs of one scale.

    Attributes:
        scale: The scale.
        runs_folder: Where its runs lie.

    Args:
        scale: One of `SCALES`.
        runs_folder: Where its runs lie.
        progress: Whether to show bars on what takes long.
    """

    def __init__(self, scale: str, runs_folder: Path, *, progress: bool = False) -> None:
        self.scale, self.runs_folder, self._progress = scale, runs_folder, progress

    def folder(self, run: StudyRun) -> Path:
        """The folder of a run."""
        return self.runs_folder / run.place

    def checkpoints(self, run: StudyRun) -> list[Path]:
        """The checkpoints of a run, in order of step."""
        return list(run_checkpoints(self.folder(run)))

    def last(self, run: StudyRun) -> Path:
        """The last checkpoint of a run."""
        return last_checkpoint(run, self.runs_folder)

    @staticmethod
    def step(path: Path) -> int:
        """The step of a checkpoint of a run, from its name.

        >>> Lab.step(Path("checkpoints/step-00012000.safetensors"))
        12000
        """
        return int(path.stem.removeprefix("step-"))

    def diagnose(self, path: Path) -> Diagnosis:
        """The diagnosis of a checkpoint of a run, kept in the run's folder; it has no `measurements`."""
        kept = DiagnosisCache(path.parents[1], _SETTINGS, enabled=True)
        return kept.get(load_checkpoint(path), lambda checkpoint: diagnose(checkpoint, **_SETTINGS))

    def diagnose_run(self, run: StudyRun) -> RunDiagnosis:
        """The timeline of a run, its diagnoses kept in the run's folder."""
        return diagnose_run(self.folder(run), **_SETTINGS, progress=self._progress)

    @staticmethod
    def generator(seed: int, *names: str) -> torch.Generator:
        """A generator of its own for everything that has other names; the same on every machine.

        >>> first, again = Lab.generator(0, "partners"), Lab.generator(0, "partners")
        >>> first.initial_seed() == again.initial_seed() != Lab.generator(0, "pairs").initial_seed()
        True
        """
        digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
