"""TransformerLens 4.3's analysis tools run on the net and agree with a route that does not use them."""

import pytest
import torch
from small_nets import VARIANTS, capture, constant_logits, final_normed, make_tokens, metric, streams
from transformer_lens import SVDInterpreter, patching
from transformer_lens.head_detector import detect_head
from transformer_lens.tools.analysis import (
    EdgeAttributionConfig,
    SubspaceInterchange,
    attribution_patch,
    collect_activations,
    direct_logit_attribution,
    faithfulness,
    fit_das,
    intervened_logits,
    logit_lens,
    random_basis,
    reinitialized,
    run_with_intervention,
)
from transformer_lens.tools.analysis.attribution_patching import Node

CLOSE = {"rtol": 0, "atol": 1e-11}


# tools.analysis


@pytest.mark.parametrize("extra", [{}, {"final_norm": False}, {"norm_position": "post", "normalization_type": "LN"}])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_logit_lens(make_net, tokens, variant, extra):
    settings = {**variant, **extra}
    if settings.get("norm_position") == "post" and variant.get("normalization_type", "LN") != "LN":
        settings["normalization_type"] = variant["normalization_type"] or "RMS"
    net = make_net(**settings)
    result = logit_lens(net, tokens, incl_mid=True, positions=None)
    expected = streams(net, tokens)
    assert result.labels == list(expected)
    for values, state in zip(result.readout.values, expected.values(), strict=True):
        normed = final_normed(net, state, state) if net.cfg.final_norm else state
        constant = constant_logits(net) if net.cfg.final_norm else net.b_U
        torch.testing.assert_close(values, normed @ net.W_U + constant, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(values, net.logits_at(state), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("unit", ["component", "head", "layer"])
def test_direct_logit_attribution(net, tokens, unit):
    answers = torch.tensor([0, 3, 5, 7, 9, 11])
    result = direct_logit_attribution(net, tokens, answers, unit=unit)
    directions = net.W_U[:, answers].T
    last = {label: state[:, -1] for label, state in streams(net, tokens).items()}
    if unit == "layer":
        normed = {label: final_normed(net, state, last["final_post"]) for label, state in last.items()}
        expected = torch.stack([(state * directions).sum(-1) for state in normed.values()])
        torch.testing.assert_close(result.attribution.flatten(1), expected, **CLOSE)
        return
    label, written = {
        "component": ("1_mlp_out", "blocks.1.hook_mlp_out"),
        "head": ("L1H2", "blocks.1.attn.hook_result"),
    }[unit]
    write = capture(net, tokens, written)[written][:, -1]
    write = write[:, 2] if unit == "head" else write
    expected = (final_normed(net, write, last["final_post"]) * directions).sum(-1)
    torch.testing.assert_close(result.attribution[result.labels.index(label)].flatten(), expected, **CLOSE)
    logit = net(tokens)[torch.arange(6), -1, answers] - constant_logits(net)[answers]
    torch.testing.assert_close(result.attribution.sum(0).flatten(), logit, **CLOSE)


def test_direct_logit_attribution_does_not_add_up_after_post_norm(make_net, tokens):
    """As the net's docstring says: a post-norm stream is not the sum of what was written to it."""
    net = make_net(norm_position="post")
    answers = torch.tensor([0, 3, 5, 7, 9, 11])
    result = direct_logit_attribution(net, tokens, answers)
    logit = net(tokens)[torch.arange(6), -1, answers] - constant_logits(net)[answers]
    assert (result.attribution.sum(0).flatten() - logit).abs().max() > 0.1


def test_direct_logit_attribution_needs_the_final_norm(make_net, tokens):
    net = make_net(final_norm=False)
    answers = torch.zeros(6, dtype=torch.long)
    with pytest.raises(ValueError, match=r"no final one \(final_norm = False\).* cache.decompose_resid\(\) @ net.W_U"):
        direct_logit_attribution(net, tokens, answers)
    logits, cache = net.run_with_cache(tokens)
    torch.testing.assert_close((cache.decompose_resid() @ net.W_U).sum(0) + net.b_U, logits, **CLOSE)


def test_attribution_patching_of_nodes(net):
    """First-order effects, against central differences along the clean-minus-corrupted direction."""
    clean, corrupt = make_tokens(2, seed=3), make_tokens(2, seed=4)
    scores = attribution_patch(net, clean, corrupt, lambda logits: metric(logits.double())).node_scores
    assert len(scores) == 4 + net.cfg.n_layers * 4 * (3 + 1)

    def effect(node):
        """Averaged over the pairs."""
        name = node.hook_name
        cell = (slice(None), node.position, node.head) if node.head is not None else (slice(None), node.position)
        goal, start = capture(net, clean, name)[name], capture(net, corrupt, name)[name]

        def moved(size):
            def move(activation, hook):
                patched = activation.clone()
                patched[cell] += size * (goal - start)[cell]
                return patched

            with torch.no_grad():
                return metric(net.run_with_hooks(corrupt, fwd_hooks=[(name, move)]))

        return float(moved(1e-5) - moved(-1e-5)) / 2e-5

    checked = [
        Node("embed", 3),
        Node("embed", 0),
        Node("mlp_out", 2, layer=0),
        Node("mlp_out", 3, layer=1),
        Node("attn_head_out", 3, layer=1, head=2),
        Node("attn_head_out", 1, layer=0, head=0),
    ]
    for node in checked:
        assert scores[node] == pytest.approx(effect(node), rel=1e-4, abs=1e-7)
    assert max(abs(scores[node]) for node in checked) > 1e-2
    assert net.list_hooks() == {}


def test_edge_tools_are_refused_clearly(net):
    clean, corrupt = make_tokens(2, seed=3), make_tokens(2, seed=4)
    message = r"this net has no hook_q_input.* use node granularity, EdgeAttributionConfig\(granularity=\"node\"\)"
    with pytest.raises(NotImplementedError, match=message):
        attribution_patch(net, clean, corrupt, metric, EdgeAttributionConfig(granularity="edge"))
    with pytest.raises(NotImplementedError, match=message):
        faithfulness(net, clean[:1], corrupt[:1], metric, [])


# interchange

POSITIONS = torch.tensor([0, 1, 2, 3, 1, 2])


@pytest.fixture
def answer_logits(net):
    return lambda tokens: net(tokens, answer_only=True)


@pytest.mark.parametrize("hook_name", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_mid", "blocks.1.mlp.hook_post"])
def test_collect_activations(net, tokens, answer_logits, hook_name):
    found = collect_activations(net, hook_name, tokens, answer_logits, positions=POSITIONS, batch_size=4)
    torch.testing.assert_close(found, capture(net, tokens, hook_name)[hook_name][torch.arange(6), POSITIONS], **CLOSE)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("rank", [3, 12])
def test_interchange_in_a_subspace(net, tokens, answer_logits, layer, rank):
    """Against the formula, resumed from the changed state; rank d_model replaces the state altogether."""
    hook_name = f"blocks.{layer}.hook_resid_post"
    sources = make_tokens(seed=8)
    base = capture(net, tokens, hook_name)[hook_name]
    source = capture(net, sources, hook_name)[hook_name][torch.arange(6), POSITIONS]
    basis = torch.linalg.qr(random_basis(12, rank, seed=0).double()).Q

    changed = base.clone()
    here = base[torch.arange(6), POSITIONS]
    changed[torch.arange(6), POSITIONS] = here + (source - here) @ basis @ basis.T
    if rank == 12:
        torch.testing.assert_close(changed[torch.arange(6), POSITIONS], source, **CLOSE)
    expected = net(start_at=hook_name, residual=changed, answer_only=True)

    swap = SubspaceInterchange(basis)
    arguments = (net, hook_name, swap, tokens, source, answer_logits)
    torch.testing.assert_close(run_with_intervention(*arguments, positions=POSITIONS), expected, **CLOSE)
    torch.testing.assert_close(intervened_logits(*arguments, positions=POSITIONS, batch_size=4), expected, **CLOSE)


def test_fit_das_finds_a_planted_direction(net, answer_logits):
    """Targets are the net's answers when one planted direction is swapped; the fit must point there."""
    hook_name = "blocks.0.hook_resid_post"
    bases, sources, last = make_tokens(192, seed=5), make_tokens(192, seed=6), torch.full((192,), 3)
    planted, other = random_basis(12, 1, seed=3), random_basis(12, 1, seed=9)
    source_states = collect_activations(net, hook_name, sources, answer_logits, positions=last)

    def answers(basis):
        swap = SubspaceInterchange(basis, strength=4.0)
        logits = intervened_logits(net, hook_name, swap, bases, source_states, answer_logits, positions=last)
        return logits.argmax(-1)

    targets = answers(planted)
    before = {name: value.clone() for name, value in net.unique_state_dict().items()}
    settings = {"rank": 1, "strength": 4.0, "lr": 0.05, "epochs": 25, "batch_size": 64}
    positions = {"base_positions": last, "source_positions": last}
    fit = fit_das(net, hook_name, bases, sources, targets, answer_logits, **positions, **settings)

    assert abs(float(fit.basis.T @ planted)) > 0.7 > abs(float(other.T @ planted))
    assert (answers(fit.basis) == targets).sum() > (answers(other) == targets).sum() + 15
    assert all(torch.equal(value, before[name]) for name, value in net.unique_state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_reinitialized_control(net, tokens):
    before = net(tokens)
    fresh, again, other = (reinitialized(net, seed) for seed in (1, 1, 2))
    assert torch.equal(net(tokens), before)
    assert torch.equal(fresh(tokens), again(tokens))
    assert (fresh(tokens) - other(tokens)).abs().max() > 1e-3
    assert sum(p.numel() for p in fresh.parameters()) == sum(p.numel() for p in net.parameters())
    assert fresh.W_in.std().item() == pytest.approx(12**-0.5, rel=0.15)
    assert (fresh.b_in == 0).all()


# others


def test_singular_vectors_of_a_tied_layer(make_net):
    """SVDInterpreter wants as many output tokens as input tokens."""
    net = make_net(d_vocab_out=17)
    found = SVDInterpreter(net).get_singular_vectors("OV", layer_index=2, num_vectors=2, head_index=1)
    _, _, right = torch.linalg.svd(net.blocks[2].attn.W_V[1] @ net.blocks[2].attn.W_O[1])
    expected = right[:2] @ net.W_U
    for mine, theirs in zip(expected, found[:, 0].T, strict=True):
        same = torch.nn.functional.cosine_similarity(mine.float(), theirs.float(), dim=0)
        assert same.abs().item() == pytest.approx(1.0, abs=1e-4)


def test_head_detector(net):
    """The share of a head's attention that falls on the position before, averaged over queries."""
    tokens = make_tokens(1, n_ctx=3)
    found = detect_head(net, tokens, "previous_token_head", exclude_bos=False, error_measure="mul")
    _, cache = net.run_with_cache(tokens)
    pattern = cache["pattern", 1][0, 2]
    expected = pattern.diagonal(-1).sum() / pattern.sum()
    assert found[1, 2].item() == pytest.approx(expected.item(), abs=0.02)


def test_tools_want_eval_mode(net, tokens):
    net.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        attribution_patch(net, tokens, tokens, metric)
    with pytest.raises(ValueError, match="evaluation mode"):
        patching.get_act_patch_resid_pre(net, tokens, {}, metric)


def test_strings_are_refused(net):
    for call in (net.to_tokens, net.to_single_token, net.tokens_to_residual_directions):
        with pytest.raises(ValueError, match="this net has no tokenizer, so it cannot read 'Paris'"):
            call("Paris")
    tokens = torch.tensor([[1, 2]])
    assert net.to_tokens(tokens, prepend_bos=False) is tokens
    assert net.to_single_token(3) == 3
