"""Nets small enough to compute on paper."""

import math

import pytest
import torch

from circuit_lab.nets import SharedTransformerConfig, build_net

TOKENS = torch.tensor([[2, 1]])


def paper_net(**changes):
    """Two layers of one block: uniform attention that doubles coordinate 0 into coordinate 1, and one ReLU neuron."""
    sizes = {"layer_map": (0, 0), "d_model": 2, "n_heads": 1, "d_mlp": 1, "d_vocab": 3, "n_ctx": 2}
    settings = {"act_fn": "relu", "normalization_type": None, "attn_bias": False}
    net = build_net(SharedTransformerConfig(**{**sizes, "d_head": 1, **settings, **changes}))
    block = net.blocks[0]
    weights = [
        (net.embed.W_E, [[1, 0], [0, 1], [2, 1]]),
        (net.pos_embed.W_pos, [[0, 0], [1, 0]]),
        (block.attn.W_Q, [[[0], [0]]]),
        (block.attn.W_K, [[[1], [0]]]),
        (block.attn.W_V, [[[1], [0]]]),
        (block.attn.W_O, [[[0, 2]]]),
        (block.mlp.W_in, [[1], [1]]),
        (block.mlp.b_in, [-6]),
        (block.mlp.W_out, [[1, 0]]),
        (block.mlp.b_out, [0, 1]),
        (net.unembed.W_U, [[1, 0, 1], [0, 1, 1]]),
    ]
    with torch.no_grad():
        for parameter, values in weights:
            parameter.copy_(torch.tensor(values))
    return net.eval()


def test_causal_net_on_paper():
    # embedding            [2, 1]                         [1, 1]
    # layer 0 attention    2 -> [0, 4]: [2, 5]            mean(2, 1) = 1.5 -> [0, 3]: [1, 4]
    # layer 0 MLP          7 - 6 = 1 -> [1, 1]: [3, 6]    5 - 6 < 0 -> [0, 1]: [1, 5]
    # layer 1 attention    3 -> [0, 6]: [3, 12]           mean(3, 1) = 2 -> [0, 4]: [1, 9]
    # layer 1 MLP          15 - 6 = 9: [12, 13]           10 - 6 = 4: [5, 10]
    logits, cache = paper_net().run_with_cache(TOKENS)
    assert cache["resid_mid", 0].tolist() == [[[2, 5], [1, 4]]]
    assert cache["resid_post", 0].tolist() == [[[3, 6], [1, 5]]]
    assert cache["resid_mid", 1].tolist() == [[[3, 12], [1, 9]]]
    assert cache["resid_post", 1].tolist() == [[[12, 13], [5, 10]]]
    assert logits.tolist() == [[[12, 13, 25], [5, 10, 15]]]
    assert paper_net()(TOKENS, answer_only=True).tolist() == [[5, 10, 15]]


def test_bidirectional_net_on_paper():
    # Both positions see mean(2, 1) = 1.5 in layer 0: [2, 4] and [1, 4], no neuron fires: [2, 5] and [1, 5];
    # again 1.5 in layer 1: [2, 8] and [1, 8]; neurons 4 and 3: [6, 9] and [4, 9].
    logits = paper_net(attention_dir="bidirectional")(TOKENS)
    assert logits.tolist() == [[[6, 9, 15], [4, 9, 13]]]


def test_attention_scores_on_paper():
    # At position 1 the state is [1, 1]: query ln 3, keys 2 and 1, so weights 9 : 3.
    net = paper_net(layer_map=(0,))
    with torch.no_grad():
        net.blocks[0].attn.W_Q.copy_(torch.tensor([[[0.0], [math.log(3)]]]))
    _, cache = net.run_with_cache(TOKENS)
    torch.testing.assert_close(cache["pattern", 0][0, 0], torch.tensor([[1.0, 0.0], [0.75, 0.25]]))
    # 0.75 * 2 + 0.25 * 1 = 1.75, doubled into coordinate 1
    torch.testing.assert_close(cache["resid_mid", 0][0, 1], torch.tensor([1.0, 1 + 3.5]))


@pytest.mark.parametrize(
    ("normalization_type", "eps", "expected"),
    [
        # mean 2, variance 1, sqrt(1 + 3) = 2: (-0.5, 0.5); times (2, 4), plus (10, 20)
        ("LN", 3.0, [9.0, 22.0]),
        # mean square 5, sqrt(5 + 4) = 3: (1/3, 1); times (2, 4)
        ("RMS", 4.0, [2 / 3, 4.0]),
    ],
)
def test_norm_on_paper(normalization_type, eps, expected):
    net = paper_net(layer_map=(0,), normalization_type=normalization_type, eps=eps, d_vocab=3, d_vocab_out=3)
    with torch.no_grad():
        net.ln_final.w.copy_(torch.tensor([2.0, 4.0]))
        if normalization_type == "LN":
            net.ln_final.b.copy_(torch.tensor([10.0, 20.0]))
    logits = net.logits_at(torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(logits, torch.tensor([*expected, sum(expected)]))


def test_post_norm_on_paper():
    # Attention reads the raw 2 and writes [0, 4]: [2, 5]: mean 3.5, variance 2.25, sqrt(2.25 + 4) = 2.5: [-0.6, 0.6].
    # The neuron gets 0 - 6 < 0, so [-0.6, 1.6]: mean 0.5, variance 1.21, sqrt(5.21).
    net = paper_net(layer_map=(0,), normalization_type="LN", norm_position="post", final_norm=False, eps=4.0)
    logits, cache = net.run_with_cache(TOKENS)
    torch.testing.assert_close(cache["resid_mid", 0][0, 0], torch.tensor([-0.6, 0.6]))
    expected = torch.tensor([-1.1, 1.1]) / math.sqrt(5.21)
    torch.testing.assert_close(cache["resid_post", 0][0, 0], expected)
    torch.testing.assert_close(logits[0, 0], torch.tensor([expected[0], expected[1], expected.sum()]))


def test_activation_functions_at_known_points():
    # Phi(1) = 0.841344746...; sigmoid(1) = 0.731058578...; tanh approximation of gelu at 1 = 0.841191990...
    expected = {"gelu": 0.8413447460685429, "gelu_new": 0.8411919906082768, "relu": 1.0, "silu": 0.7310585786300049}
    for act_fn, value in expected.items():
        mlp = paper_net(act_fn=act_fn).double().blocks[0].mlp
        # 3 + 4 - 6 = 1 goes into the neuron, which writes to coordinate 0; coordinate 1 gets the output bias
        assert mlp(torch.tensor([3.0, 4.0], dtype=torch.float64)).tolist() == pytest.approx([value, 1.0], abs=1e-12)
