"""Ablation: by hand, against edited weights and hooks of our own, by property."""

import copy
import math

import pytest
import torch
from gpt2_bridge import make_bridge, make_prompts
from small_nets import NORM_VARIANTS, make_net, make_tokens

from circuit_lab.measures.hooked_model import answer_logits
from circuit_lab.measures.intervals import mean_interval, proportion_interval
from circuit_lab.measures.metrics import METRICS, target_of
from circuit_lab.measures.patching.ablation import _donor_rows, ablation, ablation_components
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import queries_from_tokens

CLOSE = {"rtol": 0, "atol": 1e-9}
CLOSE32 = {"rtol": 0, "atol": 1e-5}
NAMES = ("h", "r1", "r2", "end")


def make_queries(n=7, *, seed=1):
    return queries_from_tokens(
        make_tokens(n, seed=seed),
        torch.arange(n),
        answer_position=torch.tensor([3, 2, 3, 1, 3, 3, 2, 3])[:n],
        position_names=NAMES,
    )


@pytest.fixture(scope="module")
def queries():
    return make_queries()


@pytest.fixture(scope="module")
def reference():
    return make_queries(8, seed=11)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def metrics_of(model, queries, logits):
    intact = answer_logits(model, queries.tokens, queries.answer_position).detach()
    return target_of(intact, answer=queries.answer, other_answer=queries.answer).metrics(logits.detach())


def hooked(model, queries, hooks):
    return metrics_of(model, queries, answer_logits(model, queries.tokens, queries.answer_position, fwd_hooks=hooks))


def writing(value, place):
    """A hook that writes `value` into a place of an activation."""

    def write(activation, hook):
        changed = activation.clone()
        changed[place] = value if isinstance(value, float) else value.expand_as(activation)[place]
        return changed

    return write


# By hand


@pytest.fixture(scope="module")
def adding_net():
    """One position. Token 0 is (4, 6) with its position, token 1 (6, 6).

    The head writes (1, 2) times the first entry it reads, the neuron adds the first entry to the second; the logits of
    the stream (x, y) are (x, y, 2y).
    """
    shape = {"layer_map": (0,), "d_model": 2, "n_heads": 1, "d_head": 1, "d_mlp": 1, "d_vocab": 3, "n_ctx": 1}
    net = build_net(SharedTransformerConfig(**shape, normalization_type=None, act_fn="relu")).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.W_E[0], net.W_E[1] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
        net.W_pos[0] = torch.tensor([3.0, 4.0])
        block = net.blocks[0]
        block.attn.W_V[0, 0], block.attn.W_O[0, 0] = 1.0, torch.tensor([1.0, 2.0])
        block.mlp.W_in[0, 0], block.mlp.W_out[0, 1] = 1.0, 1.0
        net.W_U.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]]))
    return net


# Answer 2 with logit 2y, best other token 1 with logit y: the logit difference is y at the end.
BY_HAND = {
    "zero": {
        # Intact: (4, 6) + (4, 8) + (0, 8) = (8, 22), and (6, 6) + (6, 12) + (0, 12) = (12, 30).
        "embed @ 0": (16, 16),  # (3, 4) + (3, 6) + (0, 6)
        "layer 0 head 0": (10, 12),  # (4, 6) + (0, 4); (6, 6) + (0, 6)
        "layer 0 attn": (10, 12),
        "layer 0 mlp": (14, 18),
        "layer 0 attn+mlp": (6, 6),
    },
    "mean": {
        "embed @ 0": (26, 26),  # (5, 6) + (5, 10) + (0, 10)
        "layer 0 head 0": (25, 27),  # (4, 6) + (5, 10) + (0, 9); (6, 6) + (5, 10) + (0, 11)
        "layer 0 attn": (25, 27),
        "layer 0 mlp": (24, 28),  # the mean adds 10
        "layer 0 attn+mlp": (26, 26),
    },
    "resample": {
        "embed @ 0": (30, 22),  # the other token
        "layer 0 head 0": (28, 24),  # (4, 6) + (6, 12) + (0, 10); (6, 6) + (4, 8) + (0, 10)
        "layer 0 attn": (28, 24),
        "layer 0 mlp": (26, 26),
        "layer 0 attn+mlp": (30, 22),
    },
}


@pytest.mark.parametrize("how", BY_HAND)
def test_by_hand(adding_net, how):
    """Of two queries the other one is the only donor."""
    queries = queries_from_tokens(torch.tensor([[0], [1]]), torch.tensor([2, 2]))
    result = ablation(adding_net, queries, how=how, generator=generator())
    logit_diff = METRICS.index("logit_diff")
    assert result.intact[logit_diff].tolist() == [22, 30]
    found = {c.label: tuple(result.ablated[logit_diff, i].tolist()) for i, c in enumerate(result.components)}
    assert found == BY_HAND[how]


def test_components_of_both_scopes():
    net = make_net(layer_map=(0, 1, 0, 0))
    labels = [c.label for c in ablation_components(net, NAMES)]
    assert labels[:9] == [
        *("embed @ h", "embed @ r1", "embed @ r2", "embed @ end"),
        *("layer 0 head 0", "layer 0 head 1", "layer 0 head 2", "layer 0 attn", "layer 0 mlp"),
    ]
    assert len(labels) == 4 + 4 * 6
    by_block = ablation_components(net, NAMES, scope="parameters")
    assert [c.label for c in by_block if c.kind in ("embed", "mlp")] == [
        "embed",
        "block 0 mlp (layers 0, 2, 3)",
        "block 1 mlp (layer 1)",
    ]
    universal = ablation_components(make_net(layer_map=(0, 0, 0)), NAMES, scope="parameters")
    assert universal[2].label == "block 0 head 1 (layers 0-2)"
    assert universal[2].hook_names() == [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
    in_bridge = ablation_components(make_bridge(), NAMES, scope="parameters")
    assert [c.label for c in in_bridge if c.kind == "attn+mlp"] == [f"block {i} attn+mlp (layer {i})" for i in range(3)]


# Independent routes


def with_zero_weights(net, component, first_layer):
    """A copy of the net in which what the component writes is multiplied by zero weights."""
    edited = copy.deepcopy(net)
    with torch.no_grad():
        if component.kind == "embed":
            edited.W_E.zero_()
            return edited
        block = edited.blocks[first_layer]
        if component.kind == "head":
            block.attn.W_O[component.head].zero_()
        if component.kind in ("attn", "attn+mlp"):
            block.attn.W_O.zero_()
            block.attn.b_O.zero_()
        if component.kind in ("mlp", "attn+mlp"):
            block.mlp.W_out.zero_()
            block.mlp.b_out.zero_()
    return edited


@pytest.mark.parametrize("variant", NORM_VARIANTS.values(), ids=NORM_VARIANTS.keys())
def test_zeroed_parameters(queries, variant):
    """All applications of a component at once are the weights that write its output set to 0."""
    net = make_net(**variant)
    result = ablation(net, queries, how="zero", scope="parameters", batch_size=3)
    for i, component in enumerate(result.components):
        first_layer = component.layers[0] if component.layers else 0
        edited = with_zero_weights(net, component, first_layer)
        logits = answer_logits(edited, queries.tokens, queries.answer_position)
        torch.testing.assert_close(result.ablated[:, i], metrics_of(net, queries, logits), **CLOSE)
        assert result.ablated[METRICS.index("kl"), i].min() > 0
    torch.testing.assert_close(result.intact, hooked(net, queries, []), **CLOSE)


def cells(component, name):
    """Where a component stands in the activation of one of its hooks."""
    if component.kind == "head":
        return (slice(None), slice(None), component.head)
    if component.kind == "embed" and component.position is not None:
        return (slice(None), component.position)
    return (slice(None),)


def caches(model, tokens):
    """Every activation, without the net's own batching."""
    with torch.no_grad():
        return model.run_with_cache(tokens)[1]


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("causal, cycle", "application"),
        ("causal, cycle", "parameters"),
        ("bidirectional RMS, universal", "application"),
        ("post-norm", "parameters"),
    ],
)
def test_against_full_runs_with_hooks(queries, reference, name, scope):
    """Zero, mean and the outputs of one other query, written over the whole run's outputs by hooks of our own."""
    _check_against_hooks(make_net(**NORM_VARIANTS[name]), queries, reference, scope, CLOSE)


@pytest.mark.parametrize("scope", ["application", "parameters"])
def test_a_bridge_against_full_runs_with_hooks(scope):
    queries = queries_from_tokens(make_prompts(6), torch.arange(6), answer_position=torch.tensor([4, 3, 4, 1, 4, 2]))
    reference = queries_from_tokens(make_prompts(5, seed=9), torch.arange(5))
    _check_against_hooks(make_bridge(), queries, reference, scope, CLOSE32)


def _check_against_hooks(model, queries, reference, scope, close):
    cache, of_one = caches(model, reference.tokens), caches(model, reference.tokens[:1])
    replaced = {
        "zero": lambda _name: 0.0,
        "mean": lambda name: cache[name].mean(0, keepdim=True),
        "resample": lambda name: of_one[name],
    }
    source = {"zero": None, "mean": reference, "resample": reference[:1]}
    for how, value in replaced.items():
        result = ablation(
            model,
            queries,
            how=how,
            scope=scope,
            reference=source[how],
            n_resamples=2,
            generator=generator(),
            batch_size=4,
        )
        for i, component in enumerate(result.components):
            names = component.hook_names()
            expected = hooked(model, queries, [(name, writing(value(name), cells(component, name))) for name in names])
            torch.testing.assert_close(result.ablated[:, i], expected, **close)
        assert result.n_reference == (0 if source[how] is None else len(source[how]))
        assert result.n_resamples == (2 if how == "resample" else 1)


def test_resampling_averages_the_metrics_of_its_draws(queries):
    """Each draw alone, with the same draws made again."""
    net = make_net()
    result = ablation(net, queries, how="resample", n_resamples=3, generator=generator(5), batch_size=3)
    donors = _donor_rows(queries, None, 3, generator(5))
    index = [c.label for c in result.components].index("layer 1 mlp")
    outputs = caches(net, queries.tokens)["blocks.1.hook_mlp_out"]
    of_draws = [
        hooked(net, queries, [("blocks.1.hook_mlp_out", writing(outputs[rows], slice(None)))]) for rows in donors
    ]
    torch.testing.assert_close(result.ablated[:, index], torch.stack(of_draws).mean(0), **CLOSE)


def test_donors_are_any_other_query_or_any_reference_query(queries, reference):
    own = _donor_rows(queries, None, 400, generator())
    for row in range(7):
        assert set(own[:, row].tolist()) == set(range(7)) - {row}
    assert set(_donor_rows(queries, reference, 400, generator())[:, 0].tolist()) == set(range(8))


# Properties


def test_what_comes_from_the_query_itself_changes_nothing(queries):
    net = make_net(norm_position="post")
    for row in (0, 3):
        one = queries[row : row + 1]
        for how in ("mean", "resample"):
            result = ablation(net, one, how=how, reference=one, generator=generator())
            torch.testing.assert_close(result.ablated, result.intact[:, None].expand_as(result.ablated), **CLOSE)


def test_without_its_only_block_a_net_is_its_embeddings_lens(queries):
    net = make_net(layer_map=(0, 0, 0))
    label = "block 0 attn+mlp (layers 0-2)"
    result = ablation(net, queries, how="zero", scope="parameters", components=[label])
    rows = torch.arange(7)
    embedded = (net.W_E[queries.tokens] + net.W_pos)[rows, queries.answer_position]
    torch.testing.assert_close(result.ablated[:, 0], metrics_of(net, queries, net.logits_at(embedded)), **CLOSE)


def test_a_universal_net_without_one_application_is_a_layer_shorter(queries):
    """Whichever it is: the others apply the same block."""
    net, shorter = make_net(layer_map=(0, 0, 0)), make_net(layer_map=(0, 0))
    shorter.load_unique_state_dict(net.unique_state_dict())
    labels = [f"layer {layer} attn+mlp" for layer in range(3)]
    result = ablation(net, queries, how="zero", components=labels)
    logits = answer_logits(shorter, queries.tokens, queries.answer_position)
    expected = metrics_of(net, queries, logits)
    torch.testing.assert_close(result.ablated, expected[:, None].expand(-1, 3, -1), **CLOSE)


def test_scopes_coincide_without_sharing(queries):
    net = make_net(layer_map=(0, 1, 2))
    by_scope = [ablation(net, queries, scope=scope) for scope in ("application", "parameters")]
    application, parameters = (
        result.ablated[:, [i for i, c in enumerate(result.components) if c.kind != "embed"]] for result in by_scope
    )
    torch.testing.assert_close(application, parameters, **CLOSE)
    shared = make_net(layer_map=(0, 1, 0))
    one, both = (
        ablation(shared, queries, scope=scope, components=[label]).ablated
        for scope, label in (("application", "layer 0 mlp"), ("parameters", "block 0 mlp (layers 0, 2)"))
    )
    assert (one - both).abs().max() > 0.01


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_batches_and_order(queries, reference, how):
    net = make_net()
    given = None if how == "zero" else reference
    draws = {"how": how, "reference": given, "n_resamples": 2}
    whole = ablation(net, queries, **draws, generator=generator(2))
    small = ablation(net, queries, **draws, generator=generator(2), batch_size=3)
    torch.testing.assert_close(small.ablated, whole.ablated, **CLOSE)
    torch.testing.assert_close(small.intact, whole.intact, **CLOSE)
    if how != "resample":
        order = torch.tensor([6, 0, 5, 1, 4, 2, 3])
        shuffled = ablation(net, queries[order], how=how, reference=given)
        torch.testing.assert_close(shuffled.ablated, whole.ablated[..., order], **CLOSE)


def test_only_the_named_positions_are_replaced():
    """In a causal net nothing after the answer's position matters, and at the last layer nothing but that position."""
    net = make_net()
    queries = queries_from_tokens(
        make_tokens(5), torch.arange(5), answer_position=torch.full((5,), 2), position_names=NAMES
    )

    def change(*positions):
        result = ablation(net, queries, how="zero", positions=positions)
        assert result.positions == positions
        moved = (result.ablated - result.intact[:, None]).abs().amax((0, 2))
        return {c.label: float(size) for c, size in zip(result.components, moved, strict=True)}

    assert max(change("end").values()) < 1e-12 and "embed @ h" not in change("end")
    at_h, at_both, at_answer = change("h"), change("h", "r2"), change("r2")
    last = [label for label in at_h if label.startswith("layer 2")]
    assert len(last) == 6 and all(at_h[label] < 1e-12 < 0.01 < at_answer[label] for label in last)
    assert at_h["layer 0 mlp"] > 0.01 and at_h["embed @ h"] > 0.01
    assert list(at_both)[:2] == ["embed @ h", "embed @ r2"]
    everywhere = ablation(net, queries, how="zero")
    named = ablation(net, queries, how="zero", positions=NAMES)
    assert torch.equal(everywhere.ablated, named.ablated)


def test_leaves_model_and_random_state_alone(queries):
    net = make_net()
    before = {name: value.clone() for name, value in net.unique_state_dict().items()}
    state = torch.random.get_rng_state()
    for how in ("zero", "mean", "resample"):
        result = ablation(net, queries, how=how, generator=generator())
        assert not result.ablated.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.list_hooks() == {}
    assert all(torch.equal(value, before[name]) for name, value in net.unique_state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_frame(queries):
    result = ablation(make_net(), queries, how="zero", components=["layer 1 mlp", "layer 2 head 1"])
    frame = result.frame()
    assert len(frame) == 2 * len(METRICS)
    accuracy = frame.query("metric == 'accuracy' and component == 'layer 2 head 1'").iloc[0]
    right = int(result.ablated[METRICS.index("accuracy"), 1].sum())
    interval = proportion_interval(right, 7)
    assert (accuracy["value"], accuracy["low"], accuracy["high"]) == (right / 7, interval.low, interval.high)
    assert accuracy["chance"] == pytest.approx(1 / 13) and accuracy["n"] == 7
    kl = frame.query("metric == 'kl' and component == 'layer 1 mlp'").iloc[0]
    values = result.ablated[METRICS.index("kl"), 0]
    assert kl["value"] == pytest.approx(float(values.mean())) and math.isnan(kl["chance"])
    assert kl["low"] == pytest.approx(float(mean_interval(values).low))
    assert kl["change_high"] == pytest.approx(float(mean_interval(values - result.intact[4]).high))
    assert kl["intact"] == pytest.approx(0.0, abs=1e-12) and kl["scope"] == "application" and kl["how"] == "zero"
    assert ablation(make_net(), queries, how="zero", components=["layer 1 mlp"], chance=0.25).chance == 0.25


def test_bad_input(queries, reference):
    net = make_net()
    with pytest.raises(ValueError, match="ablation needs at least one query, got none"):
        ablation(net, queries[:0])
    with pytest.raises(ValueError, match="how must be one of zero, mean, resample, got 'noise'"):
        ablation(net, queries, how="noise")
    with pytest.raises(ValueError, match="scope must be one of application, parameters, got 'block'"):
        ablation(net, queries, scope="block")
    with pytest.raises(ValueError, match=r"components must be among: embed @ h; .*layer 2 attn\+mlp; got \['layer 3"):
        ablation(net, queries, components=["layer 3 mlp"])
    with pytest.raises(ValueError, match=r"components must be among: .*; got \[\]"):
        ablation(net, queries, components=[])
    with pytest.raises(ValueError, match=r"positions must be among h, r1, r2, end, got \['r3'\]"):
        ablation(net, queries, positions=["r3"])
    with pytest.raises(ValueError, match=r'how = "zero" takes nothing from reference queries'):
        ablation(net, queries, how="zero", reference=reference)
    with pytest.raises(ValueError, match=r"reference must hold queries with positions .*, got 0 with"):
        ablation(net, queries, reference=reference[:0])
    with pytest.raises(ValueError, match=r"got 5 with \('0', '1', '2', '3', '4'\)"):
        ablation(net, queries, reference=queries_from_tokens(make_prompts(5), torch.arange(5)))
    with pytest.raises(ValueError, match='how = "resample" draws queries; give a generator'):
        ablation(net, queries, how="resample")
    with pytest.raises(ValueError, match="n_resamples must be at least 1, got 0"):
        ablation(net, queries, how="resample", generator=generator(), n_resamples=0)
    with pytest.raises(ValueError, match="one query has no other to resample from; give reference"):
        ablation(net, queries[:1], how="resample", generator=generator())
    with pytest.raises(ValueError, match="the model is in training mode"):
        ablation(make_net().train(), queries)
