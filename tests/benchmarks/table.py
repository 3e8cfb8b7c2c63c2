"""Write docs/benchmarks.md from the benchmarks: `make bench`."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
PAPER_SIZE = ROOT / "docs" / "paper_size.json"
sys.path[:0] = [str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

from promised_seconds import WAITS  # noqa: E402
from ratios import ROWS, measured_alone  # noqa: E402
from scaling import CURVES, N_ROUNDS  # noqa: E402

HEAD = """# Benchmarks

Written by `make bench`. A ratio depends on the machine less than a time does, but it does: {machine}.

## Against peers

Each row first shows that both give equal results (the row of matrix products: that these are all of a step's), then
times them in turn, with one thread, in one process of the row's own but for a peer that needs another environment
(`make bench-peers`): the median ratio (peer's time / ours) of the paired runs, with the smallest and the largest. What
is compared stands in `tests/benchmarks/ratios.py`. `make test-slow` holds every row that the machine can measure to its
target or, where that is not reached or a busy machine may miss it, to the bound in brackets. Compiled steps are timed
after compiling.

| work | peer | ratio | range | pairs | target |
|---|---|---|---|---|---|
"""
SCALING = """
## Scaling

Slope of log seconds over log size, with its 95 % interval (Student's t) over the medians of {n_rounds} rounds; 1 means
that twice the size takes twice as long. Growth: how many times as long the largest takes as the smallest.

| work | size | from | to | slope | growth | promised |
|---|---|---|---|---|---|---|
"""
SECONDS = """
## Seconds

Medians on this machine, with whatever else it did.

| work | seconds | promised |
|---|---|---|
"""
MEMORY = """
## Memory at the published width

Largest resident size of a process that holds a task of {n_items:,} training items, an untrained recursive net of width
1536 and the part's work, on a CPU in float32 (`python tests/benchmarks/paper_size.py`; batches and kept states are cut
to what `circuit_lab/nets/memory.py` allows). A whole diagnosis of the published net was not run: from these parts it
would take weeks on this CPU.

| net | part | peak, GB | seconds |
|---|---|---|---|
"""


def machine() -> str:
    """Kind of machine and versions, without names; of a GPU its kind."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformer-lens"))
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{system}{gpu}, Python {platform.python_version()}, {versions}"


def against_peers(names: Iterable[str]) -> Iterator[str]:
    """A line per row; where something is missing, it says what."""
    for name in names:
        row = ROWS[name]
        bound = "" if row.least == row.target else f" ({row.least:g})"
        told = f"not measured, for want of {' and '.join(row.missing)} | | "
        if not row.missing:
            ratio = measured_alone(name)
            told = f"{ratio.median:.1f} | {ratio.low:.1f} to {ratio.high:.1f} | {ratio.n_pairs}"
        yield f"| {row.work} | {row.peer} | {told} | {row.target:g}{bound} |"


def scaling() -> Iterator[str]:
    """A line per curve."""
    for curve in CURVES.values():
        slope, (first, *_, last) = curve.measure(), curve.sizes
        told = f"{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}] | {slope.growth:.1f}"
        yield f"| {curve.work} | {curve.of} | {first} | {last} | {told} | at most {curve.most:g} |"


def waits() -> Iterator[str]:
    """A line per promise."""
    for wait in WAITS.values():
        yield f"| {wait.work} | {wait.measure():.2f} | {wait.most:g} |"


def memory() -> Iterator[str]:
    """A line per part."""
    for row in json.loads(PAPER_SIZE.read_text())["parts"]:
        words = f"{row['n_parameters'] / 1e6:.0f} million parameters, {row['net'].split(', ')[1]}"
        yield f"| {words} | {row['part']} | {row['peak_gigabytes']:.2f} | {row['seconds']:,.0f} |"


def main() -> None:
    """Measure everything, then write the page."""
    console, page = Console(stderr=True), HEAD.format(machine=machine())
    if any("the peers" in row.missing for row in ROWS.values()):
        raise SystemExit("peers are not installed: run make bench-peers first")
    n_items = json.loads(PAPER_SIZE.read_text())["n_training_items"]
    parts = (
        ("", against_peers(ROWS)),
        (SCALING.format(n_rounds=N_ROUNDS), scaling()),
        (SECONDS, waits()),
        (MEMORY.format(n_items=n_items), memory()),
    )
    for head, lines in parts:
        page += head
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
            page += line + "\n"
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
