"""Write docs/benchmarks.md from the paired benchmarks: `make bench`."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
sys.path[:0] = [str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

from ratios import ROWS  # noqa: E402

HEAD = """# Benchmarks

Each row first shows that both give equal results (the row of matrix products: that these are all of a step's), then
times them in turn, with one thread, in one process but for a peer that needs an environment of its own (`make
bench-peers`): the median ratio (peer's time / ours) of the paired runs, with the smallest and the largest. What is
compared stands in `tests/benchmarks/ratios.py`. Written by `make bench`; `make test-slow` holds every row whose peer is
installed to its target. A ratio depends on the machine less than a time does, but it does: {machine}.

| work | peer | ratio | range | pairs | target |
|---|---|---|---|---|---|
"""


def machine() -> str:
    """Kind of machine and versions, without names."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformer-lens"))
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{system}, Python {platform.python_version()}, {versions}"


def main() -> None:
    """Measure every row, then write the page."""
    console, lines = Console(stderr=True), []
    if missing := [name for name, row in ROWS.items() if not row.is_possible]:
        raise SystemExit(f"peers are not installed, for the rows {', '.join(missing)}: run make bench-peers first")
    for name, row in ROWS.items():
        with console.status(f"{name} ({len(lines) + 1} of {len(ROWS)})"):
            ratio = row.measure()
        range_ = f"{ratio.low:.1f} to {ratio.high:.1f}"
        lines.append(f"| {row.work} | {row.peer} | {ratio.median:.1f} | {range_} | {ratio.n_pairs} | {row.target:g} |")
        console.print(lines[-1], markup=False, soft_wrap=True)
    PAGE.write_text(HEAD.format(machine=machine()) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
