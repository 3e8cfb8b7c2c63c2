"""A causal recursive net: no position reads a later one, and nothing else differs from a bidirectional net."""

import pytest
import torch
from pydantic import ValidationError

from circuit_lab.nets import HookedRecursiveTransformer, RecursiveTransformerConfig, build_net

SIZES = {"n_blocks": 2, "h_cycles": 2, "l_cycles": 3, "d_model": 12, "n_heads": 3, "d_vocab": 11, "n_ctx": 5}


def net(**settings) -> HookedRecursiveTransformer:
    built = build_net(RecursiveTransformerConfig(**{**SIZES, "init_seed": 3, **settings}))
    return built.double().eval()


@pytest.mark.parametrize("positions", ["rotary", "learned", "none"])
@pytest.mark.parametrize("n_prefix", [0, 2])
def test_later_tokens_change_nothing_before_them(positions, n_prefix):
    causal = net(attention_dir="causal", positions=positions, n_prefix=n_prefix)
    tokens = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 9, 10]])
    one, other = causal(tokens)
    torch.testing.assert_close(one[:3], other[:3], rtol=0, atol=1e-12)
    assert (one[3:] - other[3:]).abs().min() > 1e-9


def test_earlier_tokens_do():
    causal = net(attention_dir="causal")
    one, other = causal(torch.tensor([[1, 2, 3, 4, 5], [7, 2, 3, 4, 5]]))
    assert (one - other).abs().sum(-1).min() > 1e-6


def test_the_mask_is_all_that_differs():
    causal, both_ways = net(attention_dir="causal"), net()
    for own, other in zip(causal.parameters(), both_ways.parameters(), strict=True):
        assert torch.equal(own, other)
    tokens = torch.tensor([[4, 8, 0, 2, 6]])

    def mask(scores, hook):
        del hook
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(diagonal=1)
        return scores.masked_fill(later, -torch.inf)

    masked = both_ways.run_with_hooks(
        tokens, fwd_hooks=[(f"blocks.{i}.attn.hook_attn_scores", mask) for i in range(both_ways.cfg.n_layers)]
    )
    torch.testing.assert_close(causal(tokens), masked, rtol=0, atol=0)
    assert (causal(tokens) - both_ways(tokens)).abs().max() > 1e-3


def test_a_shorter_row_is_the_beginning_of_a_longer_one():
    causal = net(attention_dir="causal", positions="learned")
    tokens = torch.tensor([[1, 2, 3, 4, 5]])
    torch.testing.assert_close(causal(tokens[:, :3]), causal(tokens)[:, :3], rtol=0, atol=1e-12)


def test_an_mlp_over_positions_cannot_be_causal():
    with pytest.raises(ValidationError, match='attention_dir = "causal" needs token_mixing = "attention"'):
        RecursiveTransformerConfig(**{**SIZES, "n_heads": 0}, token_mixing="position_mlp", attention_dir="causal")


def test_it_says_so():
    assert "3 causal heads" in net(attention_dir="causal").cfg.in_words
    assert "causal" not in net().cfg.in_words
