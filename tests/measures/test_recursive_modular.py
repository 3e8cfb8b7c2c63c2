"""Modular measures on a recursive net: its input is the embedding times a constant, behind a prefix."""

import copy

import pytest
import torch
from recursive_nets import MLP, make_recursive_net

from circuit_lab.measures import frequency_ablation, isotypic_projector, predicted_answers, weight_norms
from circuit_lab.tasks import ModularConfig, build_task

P = 7


@pytest.fixture(scope="module")
def task():
    return build_task(ModularConfig(operation="a+b", p=P, train_share=0.6, seed=1))


@torch.no_grad()
@pytest.mark.parametrize("positions", ["none", "learned"])
def test_ablated_inputs_equal_an_ablated_embedding_matrix(task, positions):
    """Elements are tokens here, so removing functions of them is removing them from the rows of W_E."""
    net = make_recursive_net(d_vocab=task.d_vocab, d_vocab_out=P, n_ctx=3, positions=positions)
    net.embed.W_E.mul_(9.0)
    queries = task.pairs
    key = [task.group.irreps[0]]
    found = frequency_ablation(net, task, queries, key_frequencies=key, generator=torch.manual_seed(0), n_random=1)
    without = copy.deepcopy(net)
    without.embed.W_E[:P] -= isotypic_projector(task.group, key) @ net.embed.W_E[:P]
    expected = predicted_answers(without, queries) == queries.answer
    assert torch.equal(found.sites["inputs"].right_without, expected)
    assert not torch.equal(expected, found.right)
    assert not torch.equal(predicted_answers(without, queries), predicted_answers(net, queries))


def test_norms_of_all_weights_by_component():
    """The fixed initial streams are no weights; a shared block counts once."""
    for changes, mixer in (({}, "attention"), (MLP, "position MLP")):
        net = make_recursive_net(**changes)
        norms = weight_norms(net)
        assert list(norms.components) == ["embedding", mixer, "mlp", "unembedding"]
        squares = {name: float(weight.detach().square().sum()) for name, weight in net.named_parameters()}
        assert norms.sum_of_squares == pytest.approx(sum(squares.values()))
        assert sum(norm**2 for norm in norms.components.values()) == pytest.approx(norms.sum_of_squares)
        embedding = squares["embed.W_E"] + squares["embed.W_prefix"]
        assert norms.components["embedding"] == pytest.approx(embedding**0.5)
