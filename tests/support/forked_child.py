"""An action in a forked child, so that limits, other users and hangs stay out of the test's own process.

A fork costs milliseconds where a new interpreter would import torch for seconds.
"""

import os
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def outcome_in_child(action: Callable[[], object], *, seconds: float = 20.0) -> str:
    """What an action returned, or its error as `Type: message`; a child that takes longer is killed: "hung"."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            outcome = str(action())
        except BaseException as error:  # whatever it is, the parent shall see it
            outcome = f"{type(error).__name__}: {error}"
        os.write(writer, outcome.encode("utf-8", "replace")[:4000])
        os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
            return "hung"
        return os.read(reader, 4000).decode("utf-8") or "died without a word"
    finally:
        os.close(reader)
        os.waitpid(child, 0)


def become_nobody() -> None:
    """Give up root's right to read everything; who is not root has none."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def limit_memory(n_bytes: int) -> None:
    """Let this process take so much more memory than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_file_size(n_bytes: int) -> None:
    """Let no file grow beyond this, as on a full disk: writing more is an OSError, not a signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def timed(action: Callable[[], object], *, seconds: float, memory: int) -> str:
    """The outcome of an action in a child that may take so much more memory, and how long it took if too long."""

    def limited() -> object:
        limit_memory(memory)
        return action()

    start = time.perf_counter()
    outcome = outcome_in_child(limited, seconds=4 * seconds)
    taken = time.perf_counter() - start
    return outcome if taken < seconds else f"took {taken:.1f} s: {outcome}"
