"""Opening files that someone else may have put there: regular files only, of bounded size, inside their folder.

Whatever is wrong with a path is an InputError with the path, what is wrong and the fix; nothing here waits for a pipe,
follows a link out of a folder, or reads a device.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

from circuit_lab.errors import InputError

MAX_JSON_BYTES = 2**30
"""Largest JSON file that is read; the released datasets are below 200 MB."""
_HUB_REPOSITORY = re.compile(r"(models|datasets|spaces)--.+")
_REASONS = {
    errno.ELOOP: "its symbolic links lead in a circle; remove or correct them",
    errno.EACCES: "there is no permission to read it; change its permissions or those of the folders above it",
    errno.EPERM: "there is no permission to read it; change its permissions or those of the folders above it",
    errno.ENAMETOOLONG: "the name is longer than the file system allows; give a shorter one",
}
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR)


def file_kind(path: Path, *, what: str) -> Literal["file", "folder"] | None:
    """What is at a path, links followed.

    Args:
        path: The path.
        what: What should be there, for messages, such as "checkpoint".

    Returns:
        "file", "folder", or None where nothing is.

    Raises:
        InputError: If it is something else (a pipe, a device), a link to nothing or in a circle, or cannot be looked
            at.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (the same call, in the words of its errors)
    except OSError as error:
        if error.errno in _NOTHING_THERE and not os.path.islink(path):  # noqa: PTH114 (is_link may raise)
            return None
        raise InputError(_unreadable(path, what, error)) from error
    except ValueError as error:
        raise InputError(f"no {what} at {str(path)!r}: a path cannot hold this ({error}); correct it") from error
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise InputError(
            f"no {what} at {path}: it is a pipe, socket or device, not a regular file; give the path of a file"
        )
    return "file"


@contextmanager
def open_regular(path: Path, *, what: str, max_bytes: int) -> Iterator[BinaryIO]:
    """Open a regular file of bounded size for reading.

    Args:
        path: The file; links are followed.
        what: What it should be, for messages, such as "checkpoint".
        max_bytes: Larger files are refused unread.

    Yields:
        BinaryIO: The file, at its start.

    Raises:
        InputError: If there is none, or it is larger, no regular file, or cannot be read.
    """
    kind = file_kind(path, what=what)
    if kind != "file":
        found = "there is no such file" if kind is None else "it is a folder; give the file in it"
        raise InputError(f"no {what} at {path}: {found}")
    try:
        # Not to wait, should a pipe have taken the file's place since it was looked at.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"no {what} at {path}: it is not a regular file; give the path of a file")
            if status.st_size > max_bytes:
                raise InputError(
                    f"{path} is too large for a {what}: {status.st_size:,} bytes, at most {max_bytes:,} are read"
                )
            yield file
    except OSError as error:
        raise InputError(_unreadable(path, what, error)) from error


def check_inside(folder: Path, file: Path | str) -> Path:
    """The real path of a file that must lie in a folder, wherever links lead.

    In the cache of the Hugging Face Hub the files of `<repository>/snapshots/<revision>/` are links to
    `<repository>/blobs/`; these are inside, too.

    Args:
        folder: The folder; it may itself be reached through links.
        file: Path of the file relative to the folder, or whole; it need not exist.

    Returns:
        Its path with every link resolved.

    Raises:
        InputError: If it lies elsewhere.
    """
    try:
        root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(folder / file))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(folder / file)!r} is no path: {error}; correct it") from error
    if target.is_relative_to(root) or target.parent == _hub_blobs(root):
        return target
    raise InputError(
        f"{file} in {folder} leads out of that folder, to {target}; put the file itself there (links and '..' must "
        "stay inside)"
    )


def load_json(path: Path, *, what: str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.
        what: What it should be, for messages.
        max_bytes: Larger files are refused unread.

    Returns:
        The content.

    Raises:
        InputError: If there is none, or it is larger, no regular file, cannot be read, or is no JSON.
    """
    with open_regular(path, what=what, max_bytes=max_bytes) as file:
        content = file.read()
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}; write the {what} anew or restore the file") from error


def climbs(path: str) -> bool:
    """Whether a path goes up with `..` somewhere, with slashes of either kind.

    >>> climbs("../data"), climbs("/a/../../etc"), climbs("/data/two..hop")
    (True, True, False)
    """
    return ".." in re.split(r"[/\\]", path)


def without_climbing(path: str) -> str:
    """The same place without `..`: as it was given, or the absolute path where that has one."""
    return os.path.realpath(path) if climbs(path) else path


def _unreadable(path: Path, what: str, error: OSError) -> str:
    """An operating system's error in our words."""
    if error.errno in _NOTHING_THERE:
        reason = f"it is a symbolic link to {os.readlink(path)}, where nothing is; correct the link"  # noqa: PTH115
    else:
        reason = _REASONS.get(error.errno or 0, f"{error.strerror}; check the path and the disk")
    return f"no {what} at {_short(path)}: {reason}"


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _hub_blobs(root: Path) -> Path | None:
    """The folder that a Hub snapshot's links lead to; None for any other folder."""
    for repository in root.parents:
        is_snapshot = root.relative_to(repository).parts[0] == "snapshots" and root != repository / "snapshots"
        if is_snapshot and _HUB_REPOSITORY.fullmatch(repository.name) is not None:
            return repository / "blobs"
    return None
