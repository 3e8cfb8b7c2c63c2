"""Finding checkpoints: reference models by name, and the checkpoint that a path means."""

from pathlib import Path

from circuit_lab.errors import InputError
from circuit_lab.tasks.safe_files import file_kind
from circuit_lab.training.checkpoint import Checkpoint, load_checkpoint
from circuit_lab.training.run_folder import CHECKPOINTS, latest_checkpoint

WEIGHTS = "weights.safetensors"
_PACKAGE = Path(__file__).resolve().parents[1]
_HOMES = (_PACKAGE / "reference_models", _PACKAGE.parent / "models")
"""Inside an installed wheel, and in a clone of the repository."""


def reference_models() -> dict[str, Path]:
    """Names and folders of the reference models that come with the library."""
    return {
        folder.name: folder
        for home in _HOMES
        if home.is_dir()
        for folder in sorted(home.iterdir())
        if (folder / WEIGHTS).is_file()
    }


def reference_model(name: str) -> Checkpoint:
    """Load a reference model.

    Args:
        name: One of `reference_models()`, such as "two-hop-true-circuit".

    Returns:
        Its checkpoint.

    Raises:
        InputError: If there is no such model; the message lists the names.
    """
    folders = reference_models()
    if name not in folders:
        raise InputError(f"unknown reference model {name!r}; there are: {', '.join(folders)}")
    return load_checkpoint(folders[name] / WEIGHTS)


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that a path means.

    Args:
        path: A checkpoint file, a run folder (its last checkpoint), or a reference model's folder or name.

    Returns:
        Path of a `.safetensors` file.

    Raises:
        InputError: If there is nothing at the path, nothing that can be read, or no checkpoint in the folder.
    """
    name, path = str(path), Path(path)
    kind = file_kind(path, what="checkpoint")
    if kind == "file":
        return path
    if kind is None:
        named = reference_models()
        if name in named:
            return named[name] / WEIGHTS
        raise InputError(f"no checkpoint at {path}: there is no such file or folder")
    if file_kind(path / WEIGHTS, what="checkpoint") == "file":
        return path / WEIGHTS
    if file_kind(path / CHECKPOINTS, what="folder of checkpoints") == "folder":
        return latest_checkpoint(path)
    raise InputError(
        f"no checkpoint in folder {path}: expected {WEIGHTS} (a reference model) or {CHECKPOINTS}/ (a run folder)"
    )
