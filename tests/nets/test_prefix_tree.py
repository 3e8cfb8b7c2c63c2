"""Computing the states of equal beginnings once gives the logits and gradients of computing them for every query."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import gradients_through, make_net, make_tokens

from circuit_lab.nets import PrefixTree
from circuit_lab.nets.prefix_tree import MOST_SHARED_POSITIONS

NETS = {
    "one block, three times": {"layer_map": (0, 0, 0)},
    "two blocks, RMS": {"layer_map": (0, 1), "normalization_type": "RMS"},
    "post-norm": {"norm_position": "post", "unembed_bias": True},
    "one layer without norms or biases": {
        "layer_map": (0,),
        "normalization_type": None,
        "attn_bias": False,
        "mlp_bias": False,
    },
}
POSITIONS = torch.tensor([3, 3, 3, 2, 3, 0, 1, 3, 2])


def test_prefixes_by_hand():
    tokens = torch.tensor([[7, 1, 2], [7, 1, 3], [8, 1, 2], [7, 2, 0], [7, 1, 3]])
    tree = PrefixTree(tokens, torch.tensor([2, 2, 2, 1, 2]))
    batch = tree.prefixes_of(torch.tensor([3, 1, 4, 0]))
    assert batch.token.tolist() == [7, 1, 2, 2, 3], "7; 7 1, 7 2; 7 1 2, 7 1 3; nothing of 8, no padding"
    assert batch.position.tolist() == [0, 1, 1, 2, 2]
    assert batch.query.tolist() == [2, 4, 4, 3]
    assert batch.ancestors[3:].tolist() == [[0, 1, 3], [0, 1, 4]]
    assert batch.ended.tolist() == [[False, True, True], *2 * [[False, False, True]], *2 * [[False, False, False]]]


@pytest.mark.parametrize("net", NETS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_logits_equal_the_whole_forward_pass(net, seed):
    net = make_net(**NETS[net])
    generator = torch.Generator().manual_seed(seed)
    tokens, positions = make_tokens(n=12, seed=seed, d_vocab=3), torch.randint(4, (12,), generator=generator)
    rows = torch.randint(12, (9,), generator=generator)
    found = net.logits_of_prefixes(PrefixTree(tokens, positions).prefixes_of(rows))
    torch.testing.assert_close(found, net(tokens[rows])[torch.arange(9), positions[rows]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
def test_gradients_equal_those_of_the_whole_forward_pass(net):
    net, tokens = make_net(**NETS[net]), make_tokens(n=9, d_vocab=3)
    lean_gradients = gradients_through(
        net, lambda: net.logits_of_prefixes(PrefixTree(tokens, POSITIONS).prefixes_of(torch.arange(9)))
    )
    full_gradients = gradients_through(net, lambda: net(tokens)[torch.arange(9), POSITIONS])
    for lean, full in zip(lean_gradients, full_gradients, strict=True):
        torch.testing.assert_close(lean, full, rtol=0, atol=1e-11)


def test_a_bidirectional_net_is_refused():
    prefixes = PrefixTree(make_tokens(n=9), POSITIONS).prefixes_of(torch.arange(9))
    with pytest.raises(ValueError, match="needs a causal net, this one is bidirectional"):
        make_net(attention_dir="bidirectional").logits_of_prefixes(prefixes)


def test_a_net_with_a_hook_is_refused():
    net, prefixes = make_net(), PrefixTree(make_tokens(n=9), POSITIONS).prefixes_of(torch.arange(9))
    net.blocks[0].mlp.hook_post.add_hook(lambda *_, **__: None)
    with pytest.raises(ValueError, match="without hooks"):
        net.logits_of_prefixes(prefixes)
    net.reset_hooks()
    assert net.logits_of_prefixes(prefixes).shape[0] == 9


def test_where_it_does_not_lose():
    assert make_net().gains_by_prefixes(MOST_SHARED_POSITIONS)
    assert not make_net().gains_by_prefixes(MOST_SHARED_POSITIONS + 1)
    assert not make_net(attention_dir="bidirectional").gains_by_prefixes(3)
    assert not make_net().to("meta").gains_by_prefixes(3)
