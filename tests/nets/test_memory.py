"""How many queries are worked on at once, by hand."""

import pytest
import torch

from circuit_lab.nets import (
    RecursiveTransformerConfig,
    SharedTransformerConfig,
    build_net,
    memory,
    queries_at_once,
    queries_kept,
)

SHARED = {"layer_map": (0,), "d_vocab": 8, "n_ctx": 3}


@pytest.mark.parametrize(
    ("config", "widest"),
    [
        (SharedTransformerConfig(d_model=4, n_heads=2, d_mlp=16, **SHARED), 3 * 16),
        (SharedTransformerConfig(d_model=8, n_heads=2, d_mlp=16, **SHARED), 3 * 3 * 8),
        (SharedTransformerConfig(d_model=4, n_heads=16, d_head=1, d_mlp=4, **SHARED | {"n_ctx": 50}), 3 * 3 * 16),
        (SharedTransformerConfig(d_model=4, n_heads=2, d_mlp=16, **SHARED | {"d_vocab": 500}), 3 * 500),
        (
            RecursiveTransformerConfig(n_blocks=1, h_cycles=1, l_cycles=1, d_model=4, n_heads=2, d_vocab=8, n_ctx=3),
            3 * 2 * 256,
        ),
        (
            RecursiveTransformerConfig(
                n_blocks=1, h_cycles=1, l_cycles=1, d_model=4, token_mixing="position_mlp", d_vocab=8, n_ctx=3
            ),
            4 * 2 * 256,
        ),
    ],
)
def test_the_widest_activation_by_hand(config, widest):
    assert config.widest_activation(3) == widest


def test_queries_that_fit_by_hand(monkeypatch):
    net = build_net(SharedTransformerConfig(d_model=4, n_heads=2, d_mlp=16, **SHARED))
    of_one_query = 4 * 3 * 16 * 4  # four activations of 3 x 16 numbers of 4 bytes
    monkeypatch.setattr(memory, "PASS_BYTES", 10 * of_one_query)
    assert queries_at_once(net, 3, at_most=99) == 10
    assert queries_at_once(net, 3, at_most=7) == 7
    assert queries_at_once(net, 3, at_most=99, cached=4 * 3 * 16) == 5
    assert queries_at_once(net.to(torch.float64), 3, at_most=99) == 5
    monkeypatch.setattr(memory, "PASS_BYTES", 1)
    assert queries_at_once(net, 3, at_most=99) == 1
    monkeypatch.setattr(memory, "STATES_BYTES", 10 * 8 * 20)
    assert queries_kept(net, at_most=99, numbers=20) == 10


def test_small_nets_take_all_queries_as_large_ones_do_not():
    small = {"d_model": 64, "n_heads": 4, "d_mlp": 256}
    large = {"d_model": 1536, "n_heads": 12, "d_mlp": 6144, "layer_map": (0,)}
    assert queries_at_once(build_net(SharedTransformerConfig(**SHARED | small)), 3, at_most=8192) == 8192
    assert queries_at_once(build_net(SharedTransformerConfig(**SHARED | large)), 3, at_most=8192) < 4096


def test_what_a_net_could_read_does_not_count():
    """Short queries of a net with a long context, such as GPT-2's."""
    net = build_net(SharedTransformerConfig(d_model=64, n_heads=4, d_mlp=256, **SHARED | {"n_ctx": 1024}))
    assert queries_at_once(net, 3, at_most=8192) == 8192
    assert queries_at_once(net, 1024, at_most=8192) < 100
