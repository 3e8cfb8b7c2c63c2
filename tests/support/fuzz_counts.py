"""Counting what a fuzzer tried, within limits of memory and time that turn a bomb into a failure of the test."""

import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from circuit_lab.errors import InputError

EXTRA_BYTES = 2 * 2**30
CPU_SECONDS = 20
MAX_MESSAGE = 6000
_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


class TooLong(BaseException):
    """One input took too much time."""


@dataclass
class Counts:
    """What came of the inputs of one target.

    Attributes:
        name: The target.
        tried: Inputs.
        loaded: Those that were loaded.
        messages: Distinct messages of the others, numbers and quoted words left out.
    """

    name: str
    tried: int = 0
    loaded: int = 0
    messages: set[str] = field(default_factory=set)

    def try_one(self, target: Callable[[bytes], None], data: bytes) -> None:
        """Call the target; anything but an InputError of one line passes through.

        Args:
            target: The target.
            data: Its input.
        """
        self.tried += 1
        if signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0:
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)  # each input has its own time
        try:
            target(data)
        except InputError as error:
            message = str(error)
            assert "\n" not in message, f"a message of several lines: {message!r}"
            assert len(message) <= MAX_MESSAGE, f"a message of {len(message)} characters: {message[:500]!r}"
            self.messages.add(_VARIABLE.sub("_", message)[:200])
        else:
            self.loaded += 1

    def __str__(self) -> str:
        refused = self.tried - self.loaded
        return (
            f"fuzz {self.name}: {self.tried} tried, {self.loaded} loaded, {refused} refused with "
            f"{len(self.messages)} distinct messages"
        )


@contextmanager
def limited() -> Iterator[None]:
    """Allow the process so many bytes more than it has, and each input so many seconds of computing."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with Path("/proc/self/statm").open() as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()

    def too_long(number, frame):
        raise TooLong(f"more than {CPU_SECONDS} s of computing")

    handler = signal.signal(signal.SIGVTALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (size + EXTRA_BYTES, before[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
