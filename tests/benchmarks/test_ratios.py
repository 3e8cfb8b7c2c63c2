"""Each paired benchmark reaches its target, or the somewhat lower bound that a busy machine still reaches.

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


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ROWS)
def test_ratio(name):
    if missing := ROWS[name].missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    _, ratio = run_alone(MEASURE, name, *sys.path)
    assert ratio["median"] >= ROWS[name].least, ratio
