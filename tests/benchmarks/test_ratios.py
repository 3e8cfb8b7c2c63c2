"""Each paired benchmark reaches its target, or the lower bound that a busy machine still reaches."""

import pytest
from ratios import ROWS, measured_alone


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ROWS)
def test_ratio(name):
    if missing := ROWS[name].missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    ratio = measured_alone(name)
    assert ratio.median >= ROWS[name].least, ratio
