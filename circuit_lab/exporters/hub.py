"""Sharing checkpoints on the Hugging Face Hub, and loading them from there or from a folder.

A shared folder holds `weights.safetensors` (a checkpoint of ours, which rebuilds net and task), `README.md` (the model
card) and `config.json` (by which the Hub tells the library). Only `weights.safetensors` is read.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import validate_repo_id

from circuit_lab.errors import InputError
from circuit_lab.exporters.model_card import LIBRARY, model_card
from circuit_lab.tasks import NaturalLanguageConfig, Task, TwoHopFolderConfig, TwoHopTask
from circuit_lab.tasks.whole_folder import whole_folder
from circuit_lab.training import Checkpoint, load_checkpoint, save_checkpoint
from circuit_lab.training.reference import WEIGHTS

COMMIT_MESSAGE = "Upload a circuit_lab checkpoint"
_UNAUTHORISED = (401, 403)


def save_pretrained(checkpoint: Checkpoint, folder: str | Path, *, repo_id: str | None = None) -> Path:
    """Write a checkpoint as a folder that can be shared. Absolute paths in it are cut to their last part.

    Args:
        checkpoint: The checkpoint.
        folder: The folder; it may exist if it is empty. It appears whole or not at all.
        repo_id: Where it will be on the Hub, "user/name", for the model card.

    Returns:
        The folder.

    A folder in use, or a name that is not valid, is an InputError.
    """
    folder = Path(folder)
    if repo_id is not None:
        with _hub_errors(repo_id):
            validate_repo_id(repo_id)
    config = {
        "library_name": LIBRARY,
        "net": checkpoint.net.cfg.model_dump(mode="json"),
        "step": checkpoint.step,
        "weights_hash": checkpoint.weights_hash,
    }
    with whole_folder(folder) as unfinished:
        save_checkpoint(
            unfinished / WEIGHTS,
            net=checkpoint.net,
            task=_without_local_path(checkpoint.given_task),
            step=checkpoint.step,
            metrics=checkpoint.metrics,
            recipe=_without_local_paths(checkpoint.recipe),
            origin=checkpoint.origin,
        )
        (unfinished / "README.md").write_text(model_card(checkpoint, repo_id=repo_id), encoding="utf-8")
        (unfinished / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def push_to_hub(
    checkpoint: Checkpoint,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> str:
    """Upload a checkpoint to the Hub; a repository that is not there yet is made, and its files are replaced.

    Args:
        checkpoint: The checkpoint.
        repo_id: The repository, "user/name".
        private: Whether a repository that is made now can be seen by its owner alone.
        token: An access token; by default the one of `hf auth login`.
        revision: The branch, made if it is not there; "main" by default.
        commit_message: What the Hub shows for this upload.

    Returns:
        The repository's address.

    A name that is not valid, a token that is missing or does not suffice, or a Hub that is not reached: an InputError.
    """
    with _hub_errors(repo_id), tempfile.TemporaryDirectory() as parent:
        folder = save_pretrained(checkpoint, Path(parent) / "checkpoint", repo_id=repo_id)
        api = HfApi(token=token, library_name=LIBRARY)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message)
    return str(url)


def from_pretrained(
    name_or_folder: str | Path, *, revision: str | None = None, device: str = "cpu", task: Task | None = None
) -> Checkpoint:
    """Load a checkpoint that `save_pretrained` or `push_to_hub` wrote. Nothing in it is run.

    Args:
        name_or_folder: A folder, or else a repository on the Hub, "user/name".
        revision: Branch, tag or commit on the Hub; "main" by default.
        device: Where the net goes.
        task: Its task, where the checkpoint was trained on a dataset folder, which is not uploaded with it.

    Returns:
        The checkpoint.

    Raises:
        InputError: If there is no such folder or repository, the Hub is not reached, or the checkpoint is not whole.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{folder} is a folder, which has no revision {revision!r}; leave revision out")
    else:
        folder = _download(str(name_or_folder), revision)
    weights = folder / WEIGHTS
    if not weights.exists():
        raise InputError(
            f"{name_or_folder} has no {WEIGHTS}, so it is no checkpoint of circuit_lab; "
            "load another library's with circuit_lab.load(path)"
        )
    return load_checkpoint(weights, device=device, task=task)


def _download(repo_id: str, revision: str | None) -> Path:
    """The folder in the Hub's cache that holds the one file we read."""
    with _hub_errors(repo_id):
        validate_repo_id(repo_id)
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=[WEIGHTS], library_name=LIBRARY))


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """The Hub's errors as one line that names the fix; our own, and the disk's, pass."""
    try:
        yield
    except (HFValidationError, EntryNotFoundError, RevisionResolutionError, httpx.HTTPError, OSError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise InputError(f"{repo_id[:200]!r} on the Hugging Face Hub: {reason}") from error


def _reason(error: Exception) -> str | None:
    """What went wrong on the Hub and what to do about it; None for an error that is not the Hub's."""
    no_access = "no permission; log in with `hf auth login`, or give a token that may write there"
    reasons: list[tuple[tuple[type[Exception], ...], str]] = [
        ((HFValidationError,), "not a folder here, and no name of a repository; a name is 'user/name'"),
        ((GatedRepoError,), "its owner must grant access; ask on its page, then log in with `hf auth login`"),
        ((RevisionNotFoundError, RevisionResolutionError), "there is no such revision; see its page for its branches"),
        (
            (RepositoryNotFoundError,),
            "there is no such folder here and no such repository, or it is private; correct the name, or log in with "
            "`hf auth login`",
        ),
        ((LocalTokenNotFoundError,), no_access),
        (
            (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError, ConnectionError),
            "the Hub is not reached and the files are not in the cache; check the network (and HF_HUB_OFFLINE), or "
            "give a folder",
        ),
    ]
    for kinds, reason in reasons:
        if isinstance(error, kinds):
            return reason
    if isinstance(error, HfHubHTTPError | httpx.HTTPStatusError):
        status = error.response.status_code
        return no_access if status in _UNAUTHORISED else f"the Hub answers with status {status}; try again later"
    return " ".join(str(error).split())[:300] if isinstance(error, EntryNotFoundError | httpx.HTTPError) else None


def _without_local_path(task: Task | None) -> Task | None:
    """The task as others may know it: a dataset folder or question file by its name alone."""
    if isinstance(task, TwoHopTask) and isinstance(task.config, (TwoHopFolderConfig, NaturalLanguageConfig)):
        name = Path(task.config.path).name if task.config.path else ""
        if not name and isinstance(task.config, TwoHopFolderConfig):
            name = "dataset"
        return replace(task, config=task.config.model_copy(update={"path": name}))
    return task


def _without_local_paths(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with every absolute path cut to its last part."""
    return {key: _cut(value) for key, value in recipe.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _without_local_paths(value)
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
