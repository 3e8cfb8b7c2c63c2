"""What is promised in seconds: what a user waits for whatever the work is."""

import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from paired_timing import seconds

from circuit_lab import diagnose
from circuit_lab.report import write_report

N_TIMES = 7


@dataclass(frozen=True)
class Wait:
    """Something a user waits for.

    Attributes:
        work: What.
        most: Seconds that are promised.
        measure: The seconds it takes, a median.
    """

    work: str
    most: float
    measure: Callable[[], float]


def importing() -> float:
    """`import circuit_lab`, the start of Python not counted."""
    code = "import time; start = time.perf_counter(); import circuit_lab; print(time.perf_counter() - start)"
    return statistics.median(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(N_TIMES)
    )


def helping() -> float:
    """`circuit-lab --help`, from the shell."""
    command = [str(Path(sys.executable).with_name("circuit-lab")), "--help"]
    return statistics.median(
        seconds(lambda: subprocess.run(command, capture_output=True, check=True)) for _ in range(N_TIMES)
    )


def reporting() -> float:
    """The report of a diagnosis that is made."""
    diagnosis = diagnose("two-hop-true-circuit")
    with TemporaryDirectory() as folder:
        return statistics.median(
            seconds(lambda: write_report([diagnosis], Path(folder) / "report.html")) for _ in range(3)
        )


WAITS = {
    "import": Wait("`import circuit_lab`", 0.3, importing),
    "help": Wait("`circuit-lab --help`, with the start of Python", 0.3, helping),
    "report": Wait("report of a small two-hop checkpoint, after the diagnosis", 3, reporting),
}
