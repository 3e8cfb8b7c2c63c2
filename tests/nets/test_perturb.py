"""Perturbed controls: noise of the size asked for, and the same function in other coordinates."""

import math

import pytest
import torch
from modular_pairs import affine_answers, all_pairs, answer_logits
from small_nets import make_net, make_tokens
from wired_two_hop import CIRCUITS, QUERIES, TABLES, answers, generator, logits, world_net

from circuit_lab.nets.controls.modular import cosine_network, lookup_table, mixture
from circuit_lab.nets.controls.perturb import in_basis, random_orthogonal, rotated, with_noise

# --- noise


def test_noise_is_reproducible_and_leaves_the_original_as_it_was():
    net = cosine_network(7, frequencies=[1, 3])
    before = {name: weight.clone() for name, weight in net.unique_state_dict().items()}
    first, again, other = (with_noise(net, std_share=0.2, generator=generator(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(weight, before[name]) for name, weight in net.unique_state_dict().items())
    assert all(torch.equal(weight, again.get_parameter(name)) for name, weight in first.named_parameters())
    assert not torch.equal(first.W_E, other.W_E)
    assert first.training == net.training


def test_noise_has_the_share_asked_of_each_matrix():
    net = lookup_table(11, all_pairs(11), affine_answers(11, all_pairs(11)))
    noisy = with_noise(net, std_share=0.3, generator=generator(0))
    shares = {}
    for name, weight in net.named_parameters():
        noise = (noisy.get_parameter(name) - weight).detach()
        if weight.std(correction=0) > 0:
            shares[name] = (noise.std(correction=0) / weight.std(correction=0)).item()
        else:
            assert (noise == 0).all(), name
    assert len(shares) == 9  # all but the biases b_in and b_out
    # The smallest, W_pos, has 141 entries: a standard error of 0.3 / sqrt(282), of which this is more than five.
    assert shares == pytest.approx(dict.fromkeys(shares, 0.3), abs=0.1)


def test_no_noise_is_the_same_net_and_much_is_another():
    net, source = cosine_network(13, frequencies=[1, 2, 3, 5]), generator(1)
    exact = answer_logits(net, all_pairs(13))

    def right_share(std_share):
        logits = answer_logits(with_noise(net, std_share=std_share, generator=source), all_pairs(13))
        return (logits.argmax(dim=1) == exact.argmax(dim=1)).double().mean()

    assert torch.equal(answer_logits(with_noise(net, std_share=0.0, generator=source), all_pairs(13)), exact)
    assert right_share(0.01) == 1.0
    assert right_share(3.0) < 0.4


def test_noise_keeps_shared_layers_shared_and_the_type():
    net = make_net(layer_map=(0, 1, 0)).double()
    noisy = with_noise(net, std_share=0.1, generator=generator(2))
    assert noisy.blocks[0].mlp.W_in is noisy.blocks[2].mlp.W_in
    assert noisy.dtype == torch.float64 and noisy.training == net.training
    assert not torch.equal(noisy.W_U, net.W_U)


@pytest.mark.parametrize("name", [*CIRCUITS, *TABLES])
def test_every_two_hop_net_stands_a_little_noise_and_falls_to_much(name):
    def right_share(std_share):
        noisy = with_noise(world_net(name), std_share=std_share, generator=generator(12))
        return (answers(noisy) == QUERIES.answer).double().mean()

    assert right_share(0.02) == 1.0
    assert right_share(2.0) < 0.5


# --- other coordinates


def test_a_change_of_basis_by_hand():
    """Coordinates (0, 1, 2) become (2, 0, 1): what writes the stream permutes columns, what reads it permutes rows."""
    net = make_net(d_model=3, normalization_type=None, unembed_bias=True)
    to = [2, 0, 1]
    turned = in_basis(net, torch.eye(3, dtype=torch.float64)[to])
    state, expected = turned.unique_state_dict(), net.unique_state_dict()
    place = [to.index(i) for i in range(3)]
    for name, weight in expected.items():
        kind = name.rpartition(".")[2]
        if kind in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
            weight = weight[..., place]
        elif kind in ("W_Q", "W_K", "W_V", "W_in", "W_U"):
            weight = weight[..., place, :]
        torch.testing.assert_close(state[name], weight, msg=name)
    assert len(state) == 2 + 2 * 12 + 2


@pytest.mark.parametrize(
    "variant",
    [
        {"normalization_type": None},
        {"normalization_type": None, "attention_dir": "bidirectional", "attn_bias": False, "mlp_bias": False},
        {"normalization_type": "RMS"},
        {"normalization_type": "RMS", "norm_position": "post", "act_fn": "silu", "unembed_bias": True},
    ],
)
def test_a_rotated_net_is_the_same_function_with_its_states_turned(variant):
    net = make_net(**variant)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith(".w"):
                weight.fill_(1.3)
    turned = rotated(net, generator=generator(3))
    basis = random_orthogonal(12, generator=generator(3))
    (before, seen), (after, seen_turned) = net.run_with_cache(make_tokens()), turned.run_with_cache(make_tokens())
    torch.testing.assert_close(after, before)
    assert seen.keys() == seen_turned.keys()
    in_stream = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "normalized", "result")
    for name in seen:
        wanted = seen[name] @ basis if name.endswith(in_stream) else seen[name]
        torch.testing.assert_close(seen_turned[name], wanted, msg=name)
    for site in net.lens_sites:
        with torch.no_grad():
            lens = [n.logits_at(s[site.hook_name]) for n, s in ((net, seen), (turned, seen_turned))]
        torch.testing.assert_close(lens[1], lens[0])


@pytest.mark.parametrize("name", [*CIRCUITS, *TABLES])
def test_every_two_hop_net_can_be_rotated(name):
    net = world_net(name)
    turned = rotated(net, generator=generator(4))
    torch.testing.assert_close(logits(turned, QUERIES.tokens), logits(net, QUERIES.tokens), atol=1e-3, rtol=0)
    # No coordinate is what it was: each holds a bit of everything.
    assert (net.W_U != 0).double().mean() < 0.1 and (turned.W_U != 0).all()


@pytest.mark.parametrize(
    "net",
    [
        cosine_network(13, frequencies=[1, 2, 5]),
        lookup_table(11, all_pairs(11), affine_answers(11, all_pairs(11))),
        mixture(
            7, frequencies=[1, 3], pairs=all_pairs(7)[:20], answers=all_pairs(7)[:20].sum(1) % 7, table_height=90.0
        ),
    ],
    ids=["cosines", "table", "mixture"],
)
def test_every_modular_net_can_be_rotated(net):
    pairs = all_pairs(net.cfg.d_vocab_out)
    turned = rotated(net, generator=generator(5))
    torch.testing.assert_close(answer_logits(turned, pairs), answer_logits(net, pairs), atol=1e-3, rtol=0)
    assert not torch.allclose(turned.W_E, net.W_E, atol=0.1)


def test_turning_back_gives_the_net_and_turning_twice_the_product():
    net = make_net(normalization_type=None)
    first, second = (random_orthogonal(12, generator=generator(seed)) for seed in (6, 7))
    back = in_basis(in_basis(net, first), first.T)
    twice, product = in_basis(in_basis(net, first), second), in_basis(net, first @ second)
    for name, weight in net.named_parameters():
        torch.testing.assert_close(back.get_parameter(name), weight, msg=name)
        torch.testing.assert_close(twice.get_parameter(name), product.get_parameter(name), msg=name)


def test_a_rotation_keeps_the_original_the_ties_the_type_and_the_mode():
    net = make_net(layer_map=(0, 1, 0), normalization_type=None, dtype=torch.float32).train()
    before = {name: weight.clone() for name, weight in net.unique_state_dict().items()}
    first, again, other = (rotated(net, generator=generator(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(weight, before[name]) for name, weight in net.unique_state_dict().items())
    assert all(torch.equal(weight, again.get_parameter(name)) for name, weight in first.named_parameters())
    assert not torch.allclose(first.W_E, other.W_E, atol=0.1)
    assert first.blocks[0].mlp.W_in is first.blocks[2].mlp.W_in
    assert (first.dtype, first.training) == (torch.float32, True)


def test_random_orthogonal_matrices_are_uniform():
    """Over all orthogonal 3 x 3 matrices the trace has mean 0 and variance 1, and half are reflections."""
    source = generator(1)
    drawn = torch.stack([random_orthogonal(3, generator=source) for _ in range(900)])
    eye = torch.eye(3, dtype=torch.float64).expand_as(drawn)
    torch.testing.assert_close(drawn @ drawn.mT, eye)
    trace = drawn.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(trace.mean()) < 4 / 30  # four standard errors
    assert trace.var().item() == pytest.approx(1.0, abs=0.2)
    assert (drawn.det() > 0).double().mean().item() == pytest.approx(0.5, abs=0.07)


def test_norms_that_tell_coordinates_apart_are_refused():
    with pytest.raises(ValueError, match="normalization_type = 'LN' is another function in another basis"):
        rotated(make_net(), generator=generator())
    with pytest.raises(ValueError, match=r"blocks.0.ln1.w scales coordinates by .* to .*RMS norms have equal weights"):
        rotated(make_net(normalization_type="RMS"), generator=generator())


def test_noise_share_out_of_range_is_refused():
    net = cosine_network(5, frequencies=[1])
    for share in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"std_share must be finite and >= 0, got {share}"):
            with_noise(net, std_share=share, generator=generator())
