"""Ablating key frequencies: projectors against cosines written out, hooks against a naive forward pass, limits."""

import math

import pytest
import torch

from circuit_lab.measures import (
    ANSWER,
    INPUTS,
    frequency_ablation,
    input_elements,
    isotypic_projector,
    predicted_answers,
)
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.nets.controls.modular import cosine_network, mixture
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.training import reference_model

P = 11


@pytest.fixture(scope="module")
def task():
    return build_task(ModularConfig(p=P, train_share=0.5, seed=2))


@pytest.fixture(scope="module")
def net(task):
    """A random net, wide enough that its answers depend on every frequency; double precision for exact limits."""
    config = SharedTransformerConfig(
        layer_map=(0,), d_model=30, n_heads=3, d_mlp=40, act_fn="relu", normalization_type=None, init_std=0.5,
        d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=3,
    )  # fmt: skip
    return build_net(config).double().eval()


def ablate(net, task, keys, *, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return frequency_ablation(net, task, task.splits["test"], key_frequencies=keys, generator=generator, **options)


def waves(frequencies):
    """Orthonormal cos and sin columns over Z_p, written out."""
    columns = [
        [math.sqrt(2 / P) * wave(2 * math.pi * k * x / P) for x in range(P)]
        for k in frequencies
        for wave in (math.cos, math.sin)
    ]
    return torch.tensor(columns, dtype=torch.float64).T


def test_the_projector_on_a_frequency_is_its_cosine_and_sine(task):
    columns = waves([2, 5])
    assert torch.allclose(isotypic_projector(task.group, ["2", "5"]), columns @ columns.T, atol=1e-12)


@pytest.mark.parametrize("operation", ["a*b", "S5: ab"])
def test_projectors_are_projections_that_add_up_to_all_but_the_constant(operation):
    p = None if operation.startswith("S5") else P
    group = build_task(ModularConfig(operation=operation, p=p, train_share=0.5)).group
    parts = [isotypic_projector(group, [name]) for name in group.irreps]
    for part, dimension in zip(parts, group.dimension.tolist(), strict=True):
        assert torch.allclose(part @ part, part, atol=1e-10)
        at_nyquist = group.is_cyclic and part.diag().mul(group.order).sum() == pytest.approx(group.order)
        expected = (1 if at_nyquist else 2) if group.is_cyclic else dimension**2
        assert float(part.trace()) == pytest.approx(expected)
    constant = torch.full((group.order, group.order), 1 / group.order, dtype=torch.float64)
    assert torch.allclose(sum(parts) + constant, torch.eye(group.order, dtype=torch.float64), atol=1e-10)


def test_ablating_the_inputs_equals_a_net_with_those_embeddings_edited(net, task):
    """Independent route: subtract the waves of the two frequencies, written out, from W_E itself."""
    found = ablate(net, task, ["3", "4"]).sites[INPUTS]
    assert (found.rank, found.n_dimensions) == (4, P - 1)
    edited = build_net(net.cfg).double().eval()
    edited.load_unique_state_dict(net.unique_state_dict())
    embeddings = net.W_E.detach()[:P]
    centred = embeddings - embeddings.mean(0)
    of_waves = waves([3, 4]) @ waves([3, 4]).T @ centred
    with torch.no_grad():
        edited.embed.W_E[:P] = embeddings - of_waves
    queries = task.splits["test"]
    assert torch.equal(found.right_without, predicted_answers(edited, queries) == queries.answer)
    with torch.no_grad():
        edited.embed.W_E[:P] = embeddings.mean(0) + of_waves
    assert torch.equal(found.right_with_only, predicted_answers(edited, queries) == queries.answer)


def test_ablating_the_answer_takes_the_waves_out_of_the_logits(net, task):
    found = ablate(net, task, ["1"]).sites[ANSWER]
    queries = task.splits["test"]
    logits = net(queries.tokens)[:, 2].detach()
    of_wave = logits @ waves([1]) @ waves([1]).T
    assert torch.equal(found.right_without, (logits - of_wave).argmax(-1) == queries.answer)
    assert torch.equal(found.right_with_only, of_wave.argmax(-1) == queries.answer)
    assert (found.rank, found.n_dimensions) == (2, P - 1)


def test_a_random_subspace_leaves_the_key_frequencies_alone():
    """Logits and embeddings of a cosine network hold nothing else, so its controls take nothing away."""
    task = build_task(ModularConfig(p=31, train_share=0.5))
    net = cosine_network(31, frequencies=[1, 4, 6, 11])
    found = ablate(net, task, ["1", "4", "6", "11"])
    for site in found.sites.values():
        assert site.right_without_random.all() and site.right_without.double().mean() < 0.1
    assert found.mediated.double().mean() > 0.9


def test_a_circuit_is_told_from_the_table_that_outweighs_it_pair_by_pair():
    task = build_task(ModularConfig(p=31, train_share=0.5))
    pairs = task.pairs
    listed = torch.rand(len(pairs), generator=torch.Generator().manual_seed(0)) < 0.4
    net = mixture(
        31, frequencies=[1, 4, 6, 11], pairs=pairs.tokens[listed, :2], answers=pairs.answer[listed], table_height=200.0
    )
    found = frequency_ablation(
        net, task, pairs, key_frequencies=["1", "4", "6", "11"], generator=torch.Generator().manual_seed(0)
    )
    assert found.right.all()
    assert found.mediated[listed].double().mean() == 0
    assert found.mediated[~listed].double().mean() > 0.9


def test_removing_nothing_and_keeping_everything_change_no_answer(net, task):
    nothing = ablate(net, task, [], n_random=2)
    for site in nothing.sites.values():
        assert site.rank == 0 and torch.equal(site.right_without, nothing.right)
        assert torch.equal(site.right_without_random, nothing.right.expand(2, -1))
    everything = ablate(net, task, task.group.irreps).sites[INPUTS]
    assert everything.rank == everything.n_dimensions == P - 1
    assert torch.equal(everything.right_with_only, nothing.right)


def test_with_every_frequency_a_random_subspace_is_the_same_subspace(net, task):
    """So a net that uses them all, as a table does, passes no test: the control loses what the ablation loses."""
    found = ablate(net, task, task.group.irreps)
    for site in found.sites.values():
        assert torch.equal(site.right_without_random, site.right_without.expand(found.n_random, -1))
        assert not site.lost.any()
    assert not found.mediated.any()


def test_every_random_subspace_is_another_and_the_seed_draws_them(net, task):
    found, again, other = (ablate(net, task, ["2"], seed=seed) for seed in (0, 0, 1))
    for name, site in found.sites.items():
        assert len(site.right_without_random.unique(dim=0)) > found.n_random / 2
        assert torch.equal(site.right_without_random, again.sites[name].right_without_random)
        assert not torch.equal(site.right_without_random, other.sites[name].right_without_random)


def test_mediated_needs_a_right_answer_lost_at_every_site_and_kept_without_random_subspaces(net, task):
    found = ablate(net, task, ["2"])
    per_query = [
        all(not s.right_without[i] and s.right_without_random[:, i].double().mean() > 0.5 for s in found.sites.values())
        and bool(found.right[i])
        for i in range(len(found.right))
    ]
    assert found.mediated.tolist() == per_query
    frame = found.frame().set_index("site")
    assert frame.loc[INPUTS, "without_random"] == pytest.approx(found.sites[INPUTS].control_rate)
    assert frame.loc[ANSWER, "intact"] == pytest.approx(float(found.right.double().mean()))


def ablation_of(name, split, keys):
    checkpoint = reference_model(name)
    generator = torch.Generator().manual_seed(0)
    queries = checkpoint.task.splits[split]
    return frequency_ablation(checkpoint.net, checkpoint.task, queries, key_frequencies=keys, generator=generator)


def test_a_grokked_net_loses_its_held_out_answers_and_a_memoriser_has_none_to_lose():
    grokked, memorising = (
        ablation_of(name, "test_unmirrored", ["25", "5", "3"]) for name in ("modular-grokked", "modular-memorising")
    )
    assert grokked.mediated.double().mean() > 0.9
    assert memorising.mediated.double().mean() < 0.01


def test_the_ablation_alone_has_an_impostor():
    """Pairs learnt by heart on grokked embeddings are addressed through the key frequencies, so they are lost too.

    This is why a verdict needs the logits of held-out pairs beside the ablation.
    """
    found = ablation_of("modular-ungrokked", "train", ["5", "25"])
    lost_at_inputs = (found.sites[INPUTS].lost & found.right).double().mean()
    assert lost_at_inputs == pytest.approx(0.65, abs=0.03)  # the documents' numbers
    assert found.mediated.double().mean() == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize(
    ("operation", "defined"),
    [
        *[(operation, True) for operation in ("a+b", "a-b", "a*b", "a/b", "a^2+b^2", "S5: ab")],
        *[(operation, False) for operation in ("a^2+ab+b^2", "a^2+ab+b^2+a", "S5: aba", "S5: aba^-1")],
    ],
)
def test_inputs_are_defined_where_the_answer_is_a_product_of_functions_of_a_and_b(operation, defined):
    """Naive route: with u, v the input elements, the result's element depends on (u, v) through a product alone."""
    task = build_task(ModularConfig(operation=operation, p=None if "S5" in operation else 7, train_share=0.5))
    elements = input_elements(task)
    assert (elements is not None) == defined
    if elements is None:
        return
    group, tokens = task.group, task.pairs.tokens
    u, v = elements[0][tokens[:, 0]], elements[1][tokens[:, 1]]
    result = group.element_of_output[task.pairs.intermediates["result"]]
    kept = (u >= 0) & (v >= 0) & (result >= 0)
    second = group.inverse[v[kept]] if operation in ("a-b", "a/b") else v[kept]
    assert torch.equal(group.product[u[kept], second], result[kept])


def test_hooks_mode_and_random_state_stay_as_they_were(net, task):
    before = torch.get_rng_state()
    ablate(net, task, ["1"])
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(point.fwd_hooks for point in net.hook_dict.values())


def test_an_unknown_frequency_is_named(net, task):
    with pytest.raises(ValueError, match="Z_11 has no frequency '6'; it has: 1, 2, 3, 4, 5"):
        ablate(net, task, ["6"])
