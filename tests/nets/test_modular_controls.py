"""Hand-wired nets for modular arithmetic: closed forms, every pair, and what is not listed."""

import math

import numpy as np
import pytest
import torch
from modular_pairs import affine_answers, all_pairs, answer_logits

from circuit_lab.nets.controls.modular import (
    COSINE_SCALE,
    DEFAULT_LOGIT,
    TABLE_HEIGHT,
    cosine_network,
    lookup_table,
    mixture,
)


def cosine_logits(p, frequencies, scale):
    """The closed form, all pairs in order: `[p^2, p]`."""
    a, b, c = np.meshgrid(*[np.arange(p)] * 3, indexing="ij")
    total = np.zeros((p, p, p))
    for k in frequencies:
        total += abs(np.cos(np.pi * k * (a - b) / p)) * np.cos(2 * np.pi * k * (a + b - c) / p)
    return scale * total.reshape(p * p, p)


# --- the cosine network


def test_cosine_logits_by_hand():
    # p = 5, k = 2, (a, b) = (3, 4): a - b = -1 and a + b = 2 mod 5, so |cos(2 pi / 5)| = 0.309017 stands before
    # cos(4 pi (2 - c) / 5) for c = 0..4: cos 288, 144, 0, 144, 288 degrees.
    logits = answer_logits(cosine_network(5, frequencies=[2], scale=3.0), torch.tensor([[3, 4]]))
    cosines = torch.tensor([0.309017, -0.809017, 1.0, -0.809017, 0.309017])
    torch.testing.assert_close(logits[0], 3.0 * 0.309017 * cosines, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("p", "frequencies"), [(3, [1]), (5, [1, 2]), (13, [5, 2, 6]), (31, [1, 8, 12]), (59, [3, 13, 20, 25])]
)
def test_cosine_network_is_its_closed_form_on_every_pair(p, frequencies):
    logits = answer_logits(cosine_network(p, frequencies=frequencies), all_pairs(p)).numpy()
    np.testing.assert_allclose(logits, cosine_logits(p, frequencies, COSINE_SCALE), atol=1e-4)
    assert (logits.argmax(axis=1) == all_pairs(p).sum(dim=1).numpy() % p).all()


@pytest.mark.parametrize(("p", "frequency"), [(7, 3), (59, 1), (113, 17)])
def test_a_single_frequency_is_enough(p, frequency):
    logits = answer_logits(cosine_network(p, frequencies=[frequency]), all_pairs(p))
    assert torch.equal(logits.argmax(dim=1), all_pairs(p).sum(dim=1) % p)


def test_an_odd_multiple_of_p_phases_is_exact_and_fewer_are_not():
    expected = cosine_logits(11, [2, 3], 1.0)

    def error(n_phases):
        net = cosine_network(11, frequencies=[2, 3], n_phases=n_phases, scale=1.0)
        assert net.cfg.d_mlp == 2 * n_phases
        return abs(answer_logits(net, all_pairs(11)).numpy() - expected).max()

    assert error(33) < 1e-5
    # Two frequencies, and the harmonics also shift the gain, which is taken where they all add up.
    assert 1e-3 < error(7) < 2 * 2 * 2 * 3 / (12**2 - 1)
    assert error(5) > error(7) > error(9)


def test_few_phases_are_the_sum_over_their_neurons():
    p, k, n_phases, (a, b) = 13, 4, 7, (2, 9)
    w, phases = 2 * math.pi * k / p, [2 * math.pi * j / 7 for j in range(n_phases)]
    neurons = [max(0.0, math.cos(w * a + phase) + math.cos(w * b + phase)) for phase in phases]
    gain = sum(2 * max(0.0, math.cos(phase)) * math.cos(2 * phase) for phase in phases)
    cos_sum = sum(neuron * math.cos(2 * phase) for neuron, phase in zip(neurons, phases, strict=True)) / gain
    sin_sum = -sum(neuron * math.sin(2 * phase) for neuron, phase in zip(neurons, phases, strict=True)) / gain
    expected = [5.0 * (cos_sum * math.cos(w * c) + sin_sum * math.sin(w * c)) for c in range(p)]
    net = cosine_network(p, frequencies=[k], n_phases=n_phases, scale=5.0)
    np.testing.assert_allclose(answer_logits(net, torch.tensor([[a, b]]))[0], expected, atol=1e-5)


def test_attention_halves_and_neurons_see_the_sum():
    net = cosine_network(7, frequencies=[3, 1])
    _, cache = net.run_with_cache(torch.tensor([[2, 6, 7]]))
    assert cache["pattern", 0][0, 0, 2].tolist() == [0.5, 0.5, pytest.approx(0.0, abs=2e-9)]
    pre = cache["pre", 0][0, 2].reshape(2, 7)  # frequency, phase
    a, b, phase = (2 * math.pi * x / 7 for x in (2 * 3, 6 * 3, 4))
    assert pre[0, 4].item() == pytest.approx(math.cos(a + phase) + math.cos(b + phase), abs=1e-5)


# --- the lookup table


def test_table_logits_by_hand():
    pairs, answers = torch.tensor([[1, 4], [4, 2], [0, 0]]), torch.tensor([3, 1, 4])
    net = lookup_table(5, pairs, answers, heights=torch.tensor([7.0, 0.5, 2.0]), default_answer=2)
    logits = answer_logits(net, torch.tensor([[1, 4], [4, 2], [4, 1], [1, 2]]))
    idle = DEFAULT_LOGIT
    expected = [[0, 0, idle, 7.0, 0], [0, 0.5, idle, 0, 0], [0, 0, idle, 0, 0], [0, 0, idle, 0, 0]]
    torch.testing.assert_close(logits, torch.tensor(expected))


@pytest.mark.parametrize("p", [5, 12, 59])
def test_a_table_of_all_pairs_is_perfect_on_any_operation(p):
    answers = affine_answers(p, all_pairs(p))
    net = lookup_table(p, all_pairs(p), answers)
    logits = answer_logits(net, all_pairs(p))
    assert torch.equal(logits.argmax(dim=1), answers)
    assert net.cfg.d_mlp == p * p
    # The default answer, 0, adds its own logit where it is the right one.
    heights = torch.where(answers == 0, TABLE_HEIGHT + DEFAULT_LOGIT, TABLE_HEIGHT)
    torch.testing.assert_close(logits.max(dim=1).values, heights, atol=1e-5, rtol=0)


def test_unlisted_pairs_get_the_default_answer():
    p, default = 13, 6
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(3))
    listed, unlisted = all_pairs(p)[order[:70]], all_pairs(p)[order[70:]]
    net = lookup_table(p, listed, listed.sum(dim=1) % p, default_answer=default)
    assert torch.equal(answer_logits(net, listed).argmax(dim=1), listed.sum(dim=1) % p)
    given = answer_logits(net, unlisted).argmax(dim=1)
    assert (given == default).all()
    # Right by accident where the sum is the default, in 9 of these 99, and wrong everywhere else.
    right = given == unlisted.sum(dim=1) % p
    assert right.sum() == (unlisted.sum(dim=1) % p == default).sum() == 9


def test_an_empty_table_answers_the_default_to_all():
    empty = lookup_table(5, torch.empty(0, 2, dtype=torch.long), torch.empty(0, dtype=torch.long), default_answer=3)
    assert (answer_logits(empty, all_pairs(5)).argmax(dim=1) == 3).all()


# --- the mixture


@pytest.fixture
def wrong_pairs():
    """Seven pairs, and an answer to each that is not the sum."""
    pairs = torch.tensor([[0, 0], [0, 10], [3, 4], [4, 3], [7, 9], [9, 2], [10, 10]])
    return pairs, (pairs.sum(dim=1) + torch.arange(1, 8)) % 11


def test_mixture_logits_are_the_sum_of_its_parts(wrong_pairs):
    pairs, answers = wrong_pairs
    net = mixture(11, frequencies=[1, 3, 4], pairs=pairs, answers=answers, table_height=6.0, cosine_scale=2.5)
    expected = cosine_logits(11, [1, 3, 4], 2.5)
    for (a, b), answer in zip(pairs.tolist(), answers.tolist(), strict=True):
        expected[11 * a + b, answer] += 6.0
    np.testing.assert_allclose(answer_logits(net, all_pairs(11)).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("table_height", "decided_by_table"), [(31.0, 1.0), (0.1, 0.0)])
def test_a_high_table_decides_its_pairs_and_no_others(wrong_pairs, table_height, decided_by_table):
    pairs, answers = wrong_pairs
    net = mixture(11, frequencies=[2, 3, 5], pairs=pairs, answers=answers, table_height=table_height, cosine_scale=5.0)
    given = answer_logits(net, all_pairs(11)).argmax(dim=1)
    listed = 11 * pairs[:, 0] + pairs[:, 1]
    assert (given[listed] == answers).double().mean() == decided_by_table
    others = torch.ones(121, dtype=torch.bool).index_fill(0, listed, False)
    assert torch.equal(given[others], (all_pairs(11).sum(dim=1) % 11)[others])


def test_ablating_the_table_leaves_the_cosines(wrong_pairs):
    pairs, answers = wrong_pairs
    net = mixture(11, frequencies=[2, 4], pairs=pairs, answers=answers, table_height=90.0, n_phases=33)
    assert net.cfg.d_mlp == 2 * 33 + 7

    def silence_table(post, hook):
        post[..., 2 * 33 :] = 0.0
        return post

    with net.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", silence_table)]):
        given = answer_logits(net, all_pairs(11)).argmax(dim=1)
    assert torch.equal(given, all_pairs(11).sum(dim=1) % 11)


# --- what is refused


@pytest.mark.parametrize("frequencies", [[], [0, 2], [2, 7], [3, 3], [-1]])
def test_frequencies_out_of_range_or_repeated_are_refused(frequencies):
    with pytest.raises(ValueError, match=r"frequencies must be distinct and lie in 1..6 \(p = 13\).*got \["):
        cosine_network(13, frequencies=frequencies)


def test_other_arguments_of_the_cosines_are_refused():
    for p in (1, 2, 12, -7):
        with pytest.raises(ValueError, match=f"p must be an odd prime, got {p}; "):
            cosine_network(p, frequencies=[1])
    with pytest.raises(
        ValueError, match=r"odd prime, got 15, which shares a factor with all of frequencies = \[3, 6\]"
    ):
        cosine_network(15, frequencies=[3, 6])
    for n_phases in (3, 8):
        with pytest.raises(ValueError, match=f"n_phases must be odd and at least 5, got {n_phases}"):
            cosine_network(13, frequencies=[1], n_phases=n_phases)
    for scale in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"scale must be finite and > 0, got {scale}"):
            cosine_network(13, frequencies=[1], scale=scale)


def test_arguments_of_the_table_are_refused():
    pairs, answers = torch.tensor([[1, 2], [4, 0], [1, 2]]), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"pairs must be listed once each, got \(1, 2\) more than once"):
        lookup_table(5, pairs, answers)
    with pytest.raises(ValueError, match=r"pairs must lie in 0..3 \(p = 4\), got 4"):
        lookup_table(4, pairs, answers)
    with pytest.raises(ValueError, match=r"answers must lie in 0..4 \(p = 5\), got -1"):
        lookup_table(5, pairs[:2], answers[:2] - 1)
    with pytest.raises(ValueError, match="default_answer must lie in 0..4.*got 5"):
        lookup_table(5, pairs[:2], answers[:2], default_answer=5)
    for height in (DEFAULT_LOGIT, math.inf, math.nan):
        with pytest.raises(ValueError, match="heights must be finite and above the default answer's logit, 0.01, got"):
            lookup_table(5, pairs[:2], answers[:2], heights=torch.tensor([1.0, height]))
    with pytest.raises(ValueError, match="pairs must be listed once each"):
        mixture(5, frequencies=[1], pairs=pairs, answers=answers, table_height=1.0)
