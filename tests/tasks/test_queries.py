"""Queries by the names of their positions."""

import pytest
import torch

from circuit_lab.tasks import queries_from_tokens

PROMPTS = queries_from_tokens(
    torch.tensor([[4, 1, 9], [5, 2, 9]]), torch.tensor([7, 8]), position_names=("h", "r1", "end")
)


def test_the_tokens_at_a_named_position():
    assert PROMPTS.column("r1") == 1
    assert PROMPTS.tokens_at("r1").tolist() == [1, 2]
    assert PROMPTS[torch.tensor([1])].tokens_at("h").tolist() == [5]


def test_an_unknown_position_names_the_known_ones():
    with pytest.raises(ValueError, match="position must be one of h, r1, end, got 'r2'"):
        PROMPTS.tokens_at("r2")
