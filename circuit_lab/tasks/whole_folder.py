"""A folder that appears whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from circuit_lab.errors import InputError
from circuit_lab.tasks.safe_files import file_kind


def refuse_occupied(path: Path, *, empty_folder_is_free: bool) -> None:
    """Raise an error if something stands where an export is to go.

    Args:
        path: Where it is to go.
        empty_folder_is_free: Whether an empty folder there may be replaced.

    Raises:
        InputError: If something is there.
    """
    kind = file_kind(path, what="place to write to")
    if kind is None or (empty_folder_is_free and kind == "folder" and not _entries(path)):
        return
    free = "not an empty folder" if empty_folder_is_free else "not overwritten"
    raise InputError(f"{path} already exists and is {free}; give another path or remove it")


def make_parent(path: Path) -> None:
    """Make the folder that a path lies in.

    Args:
        path: The path.

    Raises:
        InputError: If that is not possible there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror}; give another path") from error


def _entries(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError as error:
        raise InputError(f"{folder} cannot be looked into: {error.strerror}; give another path") from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes its name when the block ends without an error.

    Args:
        path: The name; an empty folder there is replaced.

    Yields:
        Path: The folder under its temporary name, beside where it is to go.

    Raises:
        InputError: If something is there already, or no folder can be made there.
    """
    refuse_occupied(path, empty_folder_is_free=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    make_parent(path)
    try:
        unfinished.mkdir()
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror}; give another path") from error
    try:
        yield unfinished
        unfinished.rename(path)
    finally:
        # After the rename there is nothing left to remove.
        shutil.rmtree(unfinished, ignore_errors=True)
