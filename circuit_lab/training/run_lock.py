"""One process, and one thread of it, trains into a run folder at a time.

The operating system's lock on `.lock` counts, so a process that dies, however it dies, lets go. `.holder.json` beside
it only tells who holds it, for the message to the others. Reading a run needs no lock.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from circuit_lab.errors import InputError
from circuit_lab.training.run_folder import HOLDER, LOCK, write_atomically

_MAX_HOLDER_BYTES = 4096


class Holder(BaseModel):
    """Who trains into a folder.

    Attributes:
        pid: Process number on its machine.
        host: The machine's name.
        since: When it began, in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    pid: int
    host: str
    since: str


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder while training into it; the folder is made if it is not there.

    Args:
        run: The folder.

    Yields:
        None: While the lock is held; an error or Ctrl-C inside lets it go.

    Raises:
        InputError: If another process or thread holds it, with who and since when; or if the folder cannot be used.
    """
    # Without fallback_to_soft a file system without locks is an error, not a lock that outlives its process.
    lock = FileLock(run / LOCK, fallback_to_soft=False)
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{_holder(run)} is training in run folder {run}; wait until it is done, stop it, or choose another folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot use {run} as run folder: cannot lock {run / LOCK} ({error.strerror or error}); "
            "choose another folder"
        ) from error
    try:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        write_atomically(
            run / HOLDER, Holder(pid=os.getpid(), host=platform.node(), since=now).model_dump_json().encode()
        )
        yield
    finally:
        with suppress(OSError):
            (run / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(run: Path) -> str:
    """In words, who holds the lock; the file may be missing for an instant, or be anything."""
    path = run / HOLDER
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_HOLDER_BYTES:
            return "another process"
        holder = Holder.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return "another process"
    return f"process {holder.pid} on {holder.host!r} (since {holder.since!r} UTC)"
