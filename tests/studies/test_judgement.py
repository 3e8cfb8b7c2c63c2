"""A claim is held, not held, inconclusive or untested by one number per seed."""

from math import nan

import pandas as pd
import pytest

from circuit_lab.errors import InputError
from circuit_lab.studies import Bound, Claim, Holding, Study, judge
from circuit_lab.studies.judgement import read_expected

CLAIM = Claim("half", "most of them", "share, in [0, 1]", Bound(low=0.5), lambda rows: float(rows["value"].iloc[0]))
STUDY = Study("toy", "A toy", (CLAIM,), lambda _: [], lambda _lab, _seed: pd.DataFrame(), {})


def judged(*values):
    rows = pd.DataFrame({"seed": range(len(values)), "value": values})
    (judgement,) = judge(STUDY, rows)
    return judgement


@pytest.mark.parametrize(
    ("values", "holding"),
    [
        ((0.5, 0.9, 1.0), Holding.HELD),
        ((0.1, 0.2, 0.49), Holding.NOT_HELD),
        ((0.1, 0.9, 0.9), Holding.INCONCLUSIVE),
        ((nan, nan, nan), Holding.UNTESTED),
        ((nan, 0.9, nan), Holding.HELD),
    ],
)
def test_the_seeds_decide_together(values, holding):
    assert judged(*values).holding is holding


def test_a_seed_that_cannot_tell_is_counted_and_left_out_of_the_mean():
    judgement = judged(0.6, nan, 0.8)
    assert judgement.values == {0: 0.6, 2: 0.8}
    assert judgement.seeds_without == (1,)
    assert judgement.mean == pytest.approx(0.7)
    assert judged(nan).mean is None


def test_the_mean_has_an_interval_over_seeds():
    """Student's t of two degrees of freedom is 4.3027 at 97.5 %, and the standard deviation of 1, 2, 3 is 1."""
    assert judged(1.0, 2.0, 3.0).interval == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert judged(0.7, nan, 0.7).interval == (0.7, 0.7)
    assert judged(0.7, nan).interval is None


def test_an_expected_band_says_nothing_of_the_claim(tmp_path):
    path = tmp_path / "expected.json"
    path.write_text('{"half": {"low": 0.8, "high": 1.0, "reason": "seeds differ by .1"}}')
    (judgement,) = judge(STUDY, pd.DataFrame({"seed": [0, 1], "value": [0.6, 0.9]}), read_expected(path, STUDY))
    assert judgement.holding is Holding.HELD
    assert judgement.unexpected == {0: 0.6}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"must have a band for each claim of toy and no other; look at \['half'\]"),
        (
            '{"half": {"low": 0.0, "high": 1.0, "reason": "r"}, "x": {"low": 0.0, "high": 1.0, "reason": "r"}}',
            r"\['x'\]",
        ),
        ('{"half": {"low": 0.0, "high": 1.0}}', "is no table of expected bands"),
        ("[", "is no table of expected bands"),
    ],
)
def test_bands_that_do_not_fit_are_refused(tmp_path, text, message):
    (tmp_path / "expected.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_expected(tmp_path / "expected.json", STUDY)
