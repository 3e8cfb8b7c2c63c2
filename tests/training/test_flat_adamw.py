"""AdamW over vectors: equal to torch's over weights, and one memory with the net."""

import pickle

import pytest
import torch

from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.training.optimizer import MOMENTS, FlatAdamW, freeze_all_but, is_decayed
from circuit_lab.training.recipe import OptimizerRecipe
from circuit_lab.training.resume import put_state, state_tensors

CONFIG = SharedTransformerConfig(layer_map=(0, 1), d_model=12, n_heads=3, d_mlp=7, d_vocab=11, d_vocab_out=5, n_ctx=3)
RECIPE = OptimizerRecipe(weight_decay=0.3, betas=(0.8, 0.95), eps=1e-6)


def fresh_net(only=None):
    net = build_net(CONFIG).double()
    freeze_all_but(net, only)
    return net


def give_gradients(net, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        if weight.requires_grad:
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def make_step(net, optimizer, step):
    give_gradients(net, step)
    optimizer.gather_gradients()
    optimizer.step(0.01 * (step + 1))


@pytest.mark.parametrize("only", [None, ("norm",), ("mlp", "embedding")])
def test_steps_are_those_of_torch_over_weights(only):
    """`norm` has no weight that decays, so that there is one vector only."""
    ours, theirs = fresh_net(only), fresh_net(only)
    optimizer = FlatAdamW(ours, RECIPE)
    named = [(name, weight) for name, weight in theirs.named_parameters() if weight.requires_grad]
    expected = torch.optim.AdamW(
        [
            {"params": [weight for name, weight in named if is_decayed(name) == decays], "weight_decay": rate}
            for decays, rate in ((True, 0.3), (False, 0.0))
        ],
        betas=RECIPE.betas,
        eps=RECIPE.eps,
    )
    for step in range(5):
        make_step(ours, optimizer, step)
        give_gradients(theirs, step)
        for group in expected.param_groups:
            group["lr"] = 0.01 * (step + 1)
        expected.step()
    assert optimizer.decays == ([False] if only == ("norm",) else [True, False])
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), weight, rtol=0, atol=1e-12)
        for moment in MOMENTS if weight.requires_grad else ():
            kept = optimizer.by_name(optimizer.moments[moment])[name]
            torch.testing.assert_close(kept, expected.state[weight][moment], rtol=0, atol=1e-12)


def test_weights_and_vectors_are_one_memory():
    net = fresh_net()
    optimizer = FlatAdamW(net, RECIPE)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    assert sum(len(vector) for vector in optimizer.vectors) == sum(weight.numel() for weight in before.values())
    with torch.no_grad():
        for vector in optimizer.vectors:
            vector.mul_(2)
    assert all(torch.equal(weight, 2 * before[name]) for name, weight in net.named_parameters())
    net.load_unique_state_dict({name: 3 * weight for name, weight in before.items()})
    views = optimizer.by_name(optimizer.vectors)
    assert views.keys() == before.keys()
    assert all(torch.equal(view, 3 * before[name]) for name, view in views.items())


def test_stacks_of_vectors_by_name():
    optimizer = FlatAdamW(fresh_net(), RECIPE)
    stacks = [torch.randn(4, 2, len(vector)) for vector in optimizer.vectors]
    views = optimizer.by_name(stacks)
    assert views["blocks.1.attn.W_Q"].shape == (4, 2, 3, 12, 4)
    first_decayed = next(iter(views.values()))
    assert torch.equal(first_decayed.flatten(2), stacks[0][..., : 11 * 12]), "W_E, [d_vocab, d_model]"
    assert sum(view.numel() for view in views.values()) == sum(stack.numel() for stack in stacks)


def test_gradients_move_to_the_vectors():
    net = fresh_net()
    optimizer = FlatAdamW(net, RECIPE)
    give_gradients(net, 0)
    expected = {name: weight.grad for name, weight in net.named_parameters()}
    optimizer.gather_gradients()
    found = optimizer.by_name([vector.grad for vector in optimizer.vectors])
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert all(weight.grad is None for weight in net.parameters())


def test_a_weight_without_a_gradient_is_no_silence():
    net = fresh_net()
    optimizer = FlatAdamW(net, RECIPE)
    give_gradients(net, 0)
    net.ln_final.b.grad = None
    with pytest.raises(AssertionError, match=r"ln_final.b has no gradient"):
        optimizer.gather_gradients()


def test_a_state_that_is_put_into_another_net_goes_on_bit_by_bit():
    first, second = fresh_net(), fresh_net()
    optimizer, other = FlatAdamW(first, RECIPE), FlatAdamW(second, RECIPE)
    for step in range(3):
        make_step(first, optimizer, step)
    put_state(state_tensors(net=first, optimizer=optimizer, average=None), 3, net=second, optimizer=other, average=None)
    for net, each in ((first, optimizer), (second, other)):
        make_step(net, each, 3)
        assert [float(counter) for counter in each.n_steps] == [4, 4]
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_a_state_is_pickled_without_the_vectors_that_it_lies_in():
    """Processes send it to each other: a view would take its whole vector along."""
    net = fresh_net()
    tensors = state_tensors(net=net, optimizer=FlatAdamW(net, RECIPE), average=None)
    n_bytes = sum(tensor.nbytes for tensor in tensors.values())
    assert len(pickle.dumps(tensors)) < n_bytes + 1000 * len(tensors)
