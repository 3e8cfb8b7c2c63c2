"""Computing equal inputs once gives the logits and gradients of computing them for every query."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import gradients_through, make_net, make_tokens

from circuit_lab.nets import distinct_inputs

LAYERS = {
    "causal LN": {},
    "bidirectional RMS": {"attention_dir": "bidirectional", "normalization_type": "RMS"},
    "post-norm": {"norm_position": "post", "unembed_bias": True},
    "without norms or biases": {"normalization_type": None, "attn_bias": False, "mlp_bias": False},
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def one_layer(request):
    return make_net(layer_map=(0,), **request.param)


def test_every_pair_of_token_and_position_once():
    tokens = torch.tensor([[7, 7, 2], [3, 7, 2], [7, 3, 2]])
    found = distinct_inputs(tokens, torch.tensor([2, 2, 1]))
    pairs = list(zip(found.token.tolist(), found.position.tolist(), strict=True))
    assert sorted(pairs) == [(2, 2), (3, 0), (3, 1), (7, 0), (7, 1)]
    assert torch.equal(found.token[found.row], tokens)
    assert torch.equal(found.position[found.row], torch.arange(3).expand(3, 3))
    assert [pairs[place] for place in found.asked[found.query]] == [(2, 2), (2, 2), (3, 1)]
    assert len(found.asked) == 2


@pytest.mark.parametrize("layer", LAYERS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_logits_equal_the_whole_forward_pass(layer, seed):
    one_layer = make_net(layer_map=(0,), **LAYERS[layer])
    tokens = make_tokens(n=9, seed=seed, d_vocab=3)
    positions = torch.randint(4, (9,), generator=torch.Generator().manual_seed(seed))
    found = one_layer.logits_of_distinct(distinct_inputs(tokens, positions))
    torch.testing.assert_close(found, one_layer(tokens)[torch.arange(9), positions], rtol=0, atol=1e-12)


def test_gradients_equal_those_of_the_whole_forward_pass(one_layer):
    tokens, positions = make_tokens(n=9, d_vocab=3), torch.tensor([3, 3, 3, 2, 3, 0, 1, 3, 2])
    lean_gradients = gradients_through(
        one_layer, lambda: one_layer.logits_of_distinct(distinct_inputs(tokens, positions))
    )
    full_gradients = gradients_through(one_layer, lambda: one_layer(tokens)[torch.arange(9), positions])
    for lean, full in zip(lean_gradients, full_gradients, strict=True):
        torch.testing.assert_close(lean, full, rtol=0, atol=1e-11)


def test_it_saves_where_inputs_repeat():
    all_pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5), torch.tensor([5]))
    assert distinct_inputs(all_pairs, torch.full((25,), 2)).saves
    assert not distinct_inputs(all_pairs, torch.zeros(25, dtype=torch.long)).saves, "five different states ask"
    assert not distinct_inputs(all_pairs[:2], torch.full((2,), 2)).saves


def test_a_net_of_more_layers_is_refused():
    inputs = distinct_inputs(make_tokens(), torch.full((6,), 3))
    with pytest.raises(ValueError, match="needs a net of one layer, this one has 2"):
        make_net(layer_map=(0, 0)).logits_of_distinct(inputs)


def test_a_net_with_a_hook_is_refused(one_layer):
    inputs = distinct_inputs(make_tokens(), torch.full((6,), 3))
    one_layer.blocks[0].mlp.hook_post.add_hook(lambda *_, **__: None)
    with pytest.raises(ValueError, match="without hooks"):
        one_layer.logits_of_distinct(inputs)
    one_layer.reset_hooks()
    assert one_layer.logits_of_distinct(inputs).shape[0] == 6
