"""Every kind of patch: equal to TransformerLens's get_act_patch_*, and to GPT-2 written out in a bridge."""

import itertools
import math

import pytest
import torch
from gpt2_bridge import make_bridge, make_prompts
from small_nets import make_net, make_tokens
from torch.nn import functional as F
from transformer_lens import patching

from circuit_lab.measures.hooked_model import answer_logits
from circuit_lab.measures.metrics import METRICS, target_of
from circuit_lab.measures.patching.activation_patching import activation_patching
from circuit_lab.measures.patching.patch_sites import PATCH_KINDS
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.tasks import queries_from_tokens

MODELS = {
    "causal": make_net,
    "causal, post-norm": lambda: make_net(norm_position="post", normalization_type="RMS"),
    "bidirectional, tied": lambda: make_net(attention_dir="bidirectional", layer_map=(0, 0)),
    "GPT-2 bridge": lambda: make_bridge(n_layer=2),
}
THEIRS = {
    ("resid_pre", "each"): patching.get_act_patch_resid_pre,
    ("resid_mid", "each"): patching.get_act_patch_resid_mid,
    ("attn_out", "each"): patching.get_act_patch_attn_out,
    ("mlp_out", "each"): patching.get_act_patch_mlp_out,
    ("z", "each"): patching.get_act_patch_attn_head_out_by_pos,
    ("q", "each"): patching.get_act_patch_attn_head_q_by_pos,
    ("k", "each"): patching.get_act_patch_attn_head_k_by_pos,
    ("v", "each"): patching.get_act_patch_attn_head_v_by_pos,
    ("pattern", "each"): patching.get_act_patch_attn_head_pattern_by_pos,
    ("pattern_entry", "each"): patching.get_act_patch_attn_head_pattern_dest_src_pos,
    ("z", "all"): patching.get_act_patch_attn_head_out_all_pos,
    ("q", "all"): patching.get_act_patch_attn_head_q_all_pos,
    ("k", "all"): patching.get_act_patch_attn_head_k_all_pos,
    ("v", "all"): patching.get_act_patch_attn_head_v_all_pos,
    ("pattern", "all"): patching.get_act_patch_attn_head_pattern_all_pos,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


def make_pairs(model, *, answer_position=None):
    """Unrelated queries with unrelated answers, so that every cell differs."""
    draw = make_prompts if model.cfg.d_vocab == 23 else make_tokens
    generator = torch.Generator().manual_seed(5)
    clean, corrupt = (
        queries_from_tokens(
            draw(4, seed=seed),
            torch.randint(13, (4,), generator=generator),
            answer_position=answer_position,
        )
        for seed in (1, 2)
    )
    return QueryPairs(clean, corrupt, "unrelated")


@torch.no_grad()
def their_values(model, pairs, theirs, *, direction="denoising"):
    """`[n_metrics, *their axes, n]`, with our metrics as theirs and the clean run's target."""
    source, receiver = (pairs.clean, pairs.corrupt) if direction == "denoising" else (pairs.corrupt, pairs.clean)
    position = pairs.clean.answer_position
    at_answer = lambda logits: logits[torch.arange(len(logits)), position]  # noqa: E731
    target = target_of(
        at_answer(model(pairs.clean.tokens)), answer=pairs.clean.answer, other_answer=pairs.corrupt.answer
    )
    _, cache = model.run_with_cache(source.tokens)
    metrics = {name: lambda logits, i=i: target.metrics(at_answer(logits))[i] for i, name in enumerate(METRICS)}
    result = theirs(model, receiver.tokens, cache, metrics, reduce="none", baseline=True)
    return result.values, result.baseline


@pytest.mark.parametrize(("kind", "positions"), THEIRS)
def test_every_kind(model, kind, positions):
    direction = "noising" if positions == "all" else "denoising"
    pairs = make_pairs(model)
    ours = activation_patching(model, pairs, kind=kind, positions=positions, direction=direction)
    values, baseline = their_values(model, pairs, THEIRS[kind, positions], direction=direction)
    if ours.axes[1:3] == ("position", "head") and kind.startswith("pattern"):
        values = values.transpose(2, 3)  # theirs: layer, head, destination
    torch.testing.assert_close(ours.receiver.float(), baseline, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.values.float(), values, rtol=1e-5, atol=1e-5)
    assert (values[0] - values[0, :1, :1]).abs().max() > 1e-3, "all cells are alike, so the test shows nothing"


# --- a bridge, against GPT-2 written out ---


def gpt2_logits(weights, tokens, *, put=None):
    """Logits [n, pos, d_vocab] and every activation; `put(kind, layer, activation)` may replace it."""
    seen = {}
    n_ctx = tokens.shape[1]
    forbidden = torch.ones(n_ctx, n_ctx, dtype=torch.bool).triu(1)

    def see(kind, layer, activation):
        activation = activation if put is None else put(kind, layer, activation)
        seen[kind, layer] = activation
        return activation

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], 1e-5)

    def conv(x, name):
        return x @ weights[name + ".weight"] + weights[name + ".bias"]

    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][:n_ctx]
    for layer in range(3):
        h = f"transformer.h.{layer}"
        x = see("resid_pre", layer, x)
        q, k, v = (part.unflatten(-1, (2, 6)) for part in conv(norm(x, h + ".ln_1"), h + ".attn.c_attn").split(12, -1))
        q, k, v = see("q", layer, q), see("k", layer, k), see("v", layer, v)
        scores = torch.einsum("nphd,nshd->nhps", q, k) / math.sqrt(6)
        pattern = see("pattern", layer, scores.masked_fill(forbidden, -torch.inf).softmax(-1))
        z = see("z", layer, torch.einsum("nhps,nshd->nphd", pattern, v))
        x = see("resid_mid", layer, x + see("attn_out", layer, conv(z.flatten(2), h + ".attn.c_proj")))
        hidden = F.gelu(conv(norm(x, h + ".ln_2"), h + ".mlp.c_fc"), approximate="tanh")
        x = see("resid_post", layer, x + see("mlp_out", layer, conv(hidden, h + ".mlp.c_proj")))
    return norm(x, "transformer.ln_f") @ weights["lm_head.weight"].T, seen


@pytest.fixture(scope="module")
def bridge():
    """A GPT-2 in a bridge, and the weights of the same GPT-2."""
    model = make_bridge()
    weights = {name.replace("._original_component", ""): w for name, w in model.original_model.state_dict().items()}
    return model, weights


@pytest.fixture(scope="module")
def prompt_pairs():
    answers = torch.arange(14).view(2, 7)
    return QueryPairs(
        *(queries_from_tokens(make_prompts(7, seed=seed), answers[seed - 1]) for seed in (1, 2)), "unrelated"
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(set(PATCH_KINDS) - {"resid", "pattern_entry", "pos_mlp_out"}))
def test_a_bridge_against_gpt2_written_out(bridge, prompt_pairs, kind):
    """Every kind means in a bridge what it says, `resid_mid` the stream itself included."""
    model, weights = bridge
    result = activation_patching(model, prompt_pairs, kind=kind)
    clean_logits, clean = gpt2_logits(weights, prompt_pairs.clean.tokens)
    torch.testing.assert_close(clean_logits, model(prompt_pairs.clean.tokens), rtol=0, atol=1e-5)
    target = target_of(clean_logits[:, -1], answer=prompt_pairs.clean.answer, other_answer=prompt_pairs.corrupt.answer)
    cells = list(itertools.product(*map(range, result.values.shape[1:-1])))
    assert len(cells) == 3 * 5 * (2 if "head" in result.axes else 1)
    for site, *where in cells:
        index = (slice(None), *(reversed(where) if kind == "pattern" else where))

        def put(name, layer, activation, site=site, index=index):
            if (name, layer) == (kind, site):
                activation = activation.clone()
                activation[index] = clean[kind, site][index]
            return activation

        logits, _ = gpt2_logits(weights, prompt_pairs.corrupt.tokens, put=put)
        expected = target.metrics(logits[:, -1])
        torch.testing.assert_close(result.values[(slice(None), site, *where)], expected, rtol=1e-5, atol=1e-5)


def test_where_transformer_lens_differs_on_a_bridge(bridge, prompt_pairs):
    """Its `resid_mid` replaces the input of the MLP's norm: the stream too only if gradients are off.

    Then it writes into the tensor, which is the stream's own; with gradients on it writes into a copy.
    """
    model, _ = bridge
    target = target_of(
        answer_logits(model, prompt_pairs.clean.tokens, prompt_pairs.clean.answer_position).detach(),
        answer=prompt_pairs.clean.answer,
        other_answer=prompt_pairs.corrupt.answer,
    )
    _, cache = model.run_with_cache(prompt_pairs.clean.tokens)
    ours = activation_patching(model, prompt_pairs, kind="resid_mid").metric("logit_diff")

    def theirs():
        return patching.get_act_patch_resid_mid(
            model, prompt_pairs.corrupt.tokens, cache, lambda z: target.metrics(z[:, -1])[0], reduce="none"
        ).values

    with torch.no_grad():
        torch.testing.assert_close(ours, theirs(), rtol=1e-5, atol=1e-5)
    assert (ours - theirs()).abs().max() > 0.1

    def zero(activation, hook):
        activation = activation.clone()
        activation[:, 4] = 0
        return activation

    with torch.no_grad():
        no_input, no_output = (
            model.run_with_hooks(prompt_pairs.clean.tokens, fwd_hooks=[(name, zero)])
            for name in ("blocks.2.hook_resid_mid", "blocks.2.hook_mlp_out")
        )
        weights = bridge[1]
        h = "transformer.h.2"
        of_zero = (
            F.gelu(
                weights[h + ".ln_2.bias"] @ weights[h + ".mlp.c_fc.weight"] + weights[h + ".mlp.c_fc.bias"],
                approximate="tanh",
            )
            @ weights[h + ".mlp.c_proj.weight"]
            + weights[h + ".mlp.c_proj.bias"]
        )

        def constant(activation, hook):
            activation = activation.clone()
            activation[:, 4] = of_zero
            return activation

        constant_output = model.run_with_hooks(
            prompt_pairs.clean.tokens, fwd_hooks=[("blocks.2.hook_mlp_out", constant)]
        )
    torch.testing.assert_close(no_input, constant_output, rtol=0, atol=1e-5)
    assert (no_input - no_output).abs().max() > 0.01


def test_a_bridge_whose_middle_is_not_the_sum(bridge, prompt_pairs):
    model, _ = bridge

    def shift(activation, hook):
        return activation + 1.0

    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_mid", shift)]),
        pytest.raises(ValueError, match="in layer 1 of this bridge hook_resid_mid is not hook_resid_pre plus"),
    ):
        activation_patching(model, prompt_pairs, kind="resid_mid")
