"""Each paired benchmark comes near to what docs/benchmarks.md promises.

In a process of its own: here the shapes of our functions are checked at every call, which the peers' are not.
"""

import sys

import pytest
from own_process import run_alone
from ratios import ROWS

MEASURE = """
import dataclasses, sys
sys.path[:0] = sys.argv[2:]
from ratios import ROWS
result = dataclasses.asdict(ROWS[sys.argv[1]].measure())
"""

MARGIN = 0.75
"""Of a target: what else a machine does must not fail the tests."""


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ROWS)
def test_ratio(name):
    if missing := ROWS[name].missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    _, ratio = run_alone(MEASURE, name, *sys.path)
    assert ratio["median"] >= MARGIN * ROWS[name].target, ratio
