import numpy as np
import pytest

from circuit_lab.tasks.stable_random import Purpose, permutation, raw_draws, rounded_share


def test_raw_draws_are_those_of_the_published_stream():
    # PCG64 seeded by SeedSequence([3, 2]): numpy guarantees this stream, so other values mean another stream.
    assert raw_draws(2, seed=3, purpose=Purpose.OOD_FACTS).tolist() == [471132622935290421, 13711601640856460175]


def test_each_purpose_and_each_seed_has_a_stream_of_its_own():
    streams = {tuple(raw_draws(3, seed=seed, purpose=purpose).tolist()) for seed in range(5) for purpose in Purpose}
    assert len(streams) == 5 * len(Purpose)


def test_permutation_holds_every_number_once_and_is_not_the_identity():
    order = permutation(50, seed=0, purpose=Purpose.TEST_ID)
    assert sorted(order) == list(range(50))
    assert order.tolist() != list(range(50))


def test_first_of_a_permutation_is_uniform():
    first = [permutation(4, seed=seed, purpose=Purpose.LEAKED)[0] for seed in range(800)]
    # 200 each, standard deviation 12: five of them.
    assert np.abs(np.bincount(first, minlength=4) - 200).max() < 61


@pytest.mark.parametrize(
    ("share", "n", "expected"),
    [
        (0.0, 10, 0),
        (1.0, 10, 10),
        (0.005, 2054, 11),
        (0.1, 300, 30),
        (0.07, 100, 7),
        (0.001, 10, 1),
        (18.0, 38000, 684000),
    ],
)
def test_shares_round_up_but_not_for_binary_dust(share, n, expected):
    assert rounded_share(share, n) == expected
