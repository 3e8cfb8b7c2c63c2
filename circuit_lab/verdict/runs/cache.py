"""Diagnoses kept in the run folder, so that a run that has grown by one checkpoint costs one diagnosis.

`RUN/diagnoses/step-00000060-<key>.json` holds a diagnosis, its whole key and a hash. The key is everything that a
diagnosis depends on:

- the checkpoint: hash of its weights, net config, task hash, step;
- the settings: seed, partners, sample sizes, device;
- the code: a hash of the source of tasks, nets, measures and verdict, thresholds included, and the JSON's version;
- of a modular run also the past: whether an earlier state of the weights had grokked decides between `memorising` and
  `ungrokked`. So its key chains the steps, weights and recorded held-out accuracies of all earlier checkpoints (a
  superset of what is looked at, and one that a new checkpoint at the end does not change), and names the parent with
  the weights that are found there now.

A file that cannot be read, is damaged, or has another key than its name promises is not trusted: that checkpoint is
diagnosed again and the file replaced.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from circuit_lab.tasks import ModularTask
from circuit_lab.training import Checkpoint, load_checkpoint, read_metrics, resolve_checkpoint, write_atomically
from circuit_lab.verdict.diagnosis import SCHEMA_VERSION, Diagnosis
from circuit_lab.verdict.source_hash import source_hash

DIAGNOSES = "diagnoses"
_HELD_OUT = "accuracy/test_unmirrored"
Key = dict[str, Any]


class DiagnosisCache:
    """The diagnoses of one run, asked for in order of step."""

    def __init__(self, run: Path, settings: Mapping[str, Any], *, enabled: bool) -> None:
        self._run, self._settings, self._enabled = run, dict(settings), enabled
        self._metrics = {record["step"]: record.get(_HELD_OUT) for record in read_metrics(run)} if enabled else {}
        self._past, self._parents = "", {}

    def get(self, checkpoint: Checkpoint, diagnose_checkpoint: Callable[[Checkpoint], Diagnosis]) -> Diagnosis:
        """The diagnosis of a checkpoint, kept or made now.

        Args:
            checkpoint: The next checkpoint of the run.
            diagnose_checkpoint: Makes the diagnosis.

        Returns:
            The diagnosis as its JSON tells it, without `measurements`, whether kept or new. Its `source` is the path
            that the checkpoint had when it was made.
        """
        if not self._enabled:
            return _read_back(diagnose_checkpoint(checkpoint).to_json(indent=None))
        key = self._key(checkpoint)
        path = self._run / DIAGNOSES / f"step-{checkpoint.step:08d}-{_hash(key)[:16]}.json"
        kept = _kept(path, key)
        if kept is None:
            text = diagnose_checkpoint(checkpoint).to_json(indent=None)
            kept = _read_back(text)
            self._keep(path, key, text)
        return kept

    def _key(self, checkpoint: Checkpoint) -> Key:
        key = {
            "weights_hash": checkpoint.weights_hash,
            "net": checkpoint.net.cfg.model_dump(mode="json"),
            "task_hash": checkpoint.task.certificate.task_hash,
            "step": checkpoint.step,
            "settings": self._settings,
            "schema_version": SCHEMA_VERSION,
            "code": source_hash(),
        }
        if isinstance(checkpoint.task, ModularTask):
            key |= {"past": self._past, "parent": self._parent(checkpoint)}
            self._past = _hash(
                [self._past, checkpoint.step, checkpoint.weights_hash, self._metrics.get(checkpoint.step)]
            )
        return key

    def _parent(self, checkpoint: Checkpoint) -> Any:
        """What the run recorded of its parent, and the weights that are there now; the same for the whole run."""
        record = checkpoint.recipe.get("parent")
        if not isinstance(record, dict) or not isinstance(record.get("checkpoint"), str):
            return record
        name = record["checkpoint"]
        if name not in self._parents:
            try:
                self._parents[name] = load_checkpoint(resolve_checkpoint(name)).weights_hash
            except ValueError:
                self._parents[name] = None
        return {"record": record, "found": self._parents[name]}

    def _keep(self, path: Path, key: Key, text: str) -> None:
        diagnosis = json.loads(text)
        content = json.dumps({"key": key, "sha256": _hash(diagnosis), "diagnosis": diagnosis})
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content.encode())
        except OSError as error:
            warnings.warn(f"diagnoses cannot be kept in {path.parent} and will be made again: {error}", stacklevel=4)
            self._enabled = False


def _read_back(text: str) -> Diagnosis:
    return Diagnosis.model_validate_json(text)


def _kept(path: Path, key: Key) -> Diagnosis | None:
    """The diagnosis in a file; None if there is none, or it cannot be trusted."""
    try:
        record = json.loads(path.read_bytes())
        if record["key"] != key or record["sha256"] != _hash(record["diagnosis"]):
            return None
        return Diagnosis.model_validate(record["diagnosis"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return None


def _hash(content: Any) -> str:
    """SHA-256 of something that JSON can say."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
