"""Activation patching: by hand, against one hooked pass per cell, and by its properties."""

import itertools
from dataclasses import replace

import pytest
import torch
from gpt2_bridge import make_bridge, make_prompts
from small_nets import make_net, make_tokens
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.hooked_model import answer_logits
from circuit_lab.measures.metrics import METRICS, target_of
from circuit_lab.measures.patching.activation_patching import activation_patching
from circuit_lab.measures.patching.causal_suffix import CausalSuffix
from circuit_lab.measures.patching.patch_sites import PATCH_KINDS
from circuit_lab.measures.patching.query_pairs import QueryPairs, noise_pairs
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import queries_from_tokens

NETS = {
    "causal": lambda: make_net(layer_map=(0, 1)),
    "bidirectional": lambda: make_net(attention_dir="bidirectional", layer_map=(0, 1)),
}
ANSWER_POSITION = torch.tensor([3, 3, 1, 3, 0, 1, 2])


@pytest.fixture(scope="module", params=NETS)
def net(request):
    return NETS[request.param]()


@pytest.fixture(scope="module")
def pairs():
    """Unrelated queries, read at different positions; the last two share their first tokens."""
    clean, corrupt = make_tokens(7, seed=1), make_tokens(7, seed=2)
    corrupt[5:, :2] = clean[5:, :2]
    generator = torch.Generator().manual_seed(3)
    answers = torch.randint(13, (2, 7), generator=generator)
    return QueryPairs(
        *(
            queries_from_tokens(tokens, answer, answer_position=ANSWER_POSITION, position_names="abcd")
            for tokens, answer in zip((clean, corrupt), answers, strict=True)
        ),
        "unrelated",
    )


def logits_of(net, queries, *hooks):
    return answer_logits(net, queries.tokens, queries.answer_position, fwd_hooks=hooks)


def by_hand_net():
    """Every position looks at itself and all before it alike; logits (x0, x1 + 2 x mean of the x0 it sees)."""
    config = SharedTransformerConfig(
        layer_map=(0,),
        d_model=2,
        n_heads=1,
        d_head=1,
        d_mlp=1,
        d_vocab=3,
        d_vocab_out=2,
        n_ctx=2,
        act_fn="relu",
        normalization_type=None,
    )
    net = build_net(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.W_E[:, 0] = torch.tensor([1.0, 3.0, 5.0])
        net.blocks[0].attn.W_V[0, 0] = 1.0
        net.blocks[0].attn.W_O[0, 0, 1] = 2.0
        net.unembed.W_U.copy_(torch.eye(2))
    return net


BY_HAND = {
    # Into the corrupt run (means 1, 2; logits 3, 4), at position 0 and at position 1.
    "resid_pre": [3, 1],  # (3, 2 x 3); (5, 2 x 3)
    "v": [3, 3],  # the mean becomes 3
    "z": [1, 5],  # (3, 2 x 4)
    "attn_out": [1, 5],
    "resid_mid": [1, 3],  # the clean run's
    "resid_post": [1, 3],
    "mlp_out": [1, 1],
    "q": [1, 1],
    "k": [1, 1],
    "pattern": [1, 1],
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_by_hand(kind):
    """Clean (3, 5): mean 4, logits (5, 8), difference 3. Corrupt (1, 3): mean 2, logits (3, 4), difference 1."""
    pairs = QueryPairs(
        queries_from_tokens(torch.tensor([[1, 2]]), torch.tensor([1])),
        queries_from_tokens(torch.tensor([[0, 1]]), torch.tensor([0])),
        "both",
    )
    result = activation_patching(by_hand_net(), pairs, kind=kind)
    assert (result.clean[0].tolist(), result.corrupt[0].tolist()) == ([3.0], [1.0])
    assert result.metric("logit_diff").flatten().tolist() == BY_HAND[kind]
    recovered = [(value - 1) / 2 for value in BY_HAND[kind]]
    assert result.recovered("logit_diff").mean.flatten().tolist() == recovered


def naive_values(net, pairs, result):
    """One hooked forward pass of the whole net per cell."""
    denoising = result.direction == "denoising"
    source, receiver = (pairs.clean, pairs.corrupt) if denoising else (pairs.corrupt, pairs.clean)
    target = target_of(logits_of(net, pairs.clean), answer=pairs.clean.answer, other_answer=pairs.corrupt.answer)
    _, cache = net.run_with_cache(source.tokens)
    values = torch.empty_like(result.values)
    shape = result.values.shape[1:-1]
    for cell in itertools.product(*map(range, shape)):
        site = cell[0]
        if result.kind == "resid":
            name = "blocks.0.hook_resid_pre" if site == 0 else f"blocks.{site - 1}.hook_resid_post"
        else:
            name = f"blocks.{site}.{PATCH_KINDS[result.kind].hook or 'hook_' + result.kind}"
        where = dict(zip(result.axes[1:], cell[1:], strict=True))
        position = where.get("position", slice(None))
        if result.kind.startswith("pattern"):
            index = (slice(None), where["head"], position, where.get("source", slice(None)))
        else:
            index = (slice(None), position, where["head"]) if "head" in where else (slice(None), position)

        def put(activation, hook, index=index):
            activation = activation.clone()
            activation[index] = cache[hook.name][index]
            return activation

        values[(slice(None), *cell)] = target.metrics(logits_of(net, receiver, (name, put)))
    return values


@torch.no_grad()
@pytest.mark.parametrize(("positions", "direction"), [("each", "denoising"), ("all", "noising")])
@pytest.mark.parametrize("kind", [kind for kind in PATCH_KINDS if kind != "pos_mlp_out"])
def test_against_one_pass_per_cell(net, pairs, kind, positions, direction):
    result = activation_patching(net, pairs, kind=kind, positions=positions, direction=direction)
    torch.testing.assert_close(result.values, naive_values(net, pairs, result), rtol=0, atol=1e-9)


# --- properties ---


@pytest.fixture(scope="module", params=["causal", "bidirectional", "GPT-2 bridge"])
def model(request):
    return make_bridge(n_layer=2) if request.param == "GPT-2 bridge" else NETS[request.param]()


def pairs_for(model, n=7):
    draw = make_prompts if model.cfg.d_vocab == 23 else make_tokens
    answers = torch.randint(13, (2, n), generator=torch.Generator().manual_seed(3))
    position = torch.arange(n) % 3 + 1
    queries = [queries_from_tokens(draw(n, seed=seed), answers[seed - 1], answer_position=position) for seed in (1, 2)]
    return QueryPairs(*queries, "unrelated")


@pytest.mark.parametrize("kind", ["resid", "resid_mid", "mlp_out", "v", "pattern_entry"])
def test_patching_with_itself_changes_nothing(model, kind):
    pairs = pairs_for(model)
    result = activation_patching(model, QueryPairs(pairs.clean, pairs.clean, "nothing"), kind=kind)
    expected = result.clean.view(5, *[1] * len(result.axes), 7).expand_as(result.values)
    # resid_mid of a bridge is written as a difference from the state before attention, so it is equal up to rounding.
    rounding = 1e-5 if kind == "resid_mid" and model.cfg.d_vocab == 23 else 1e-12
    torch.testing.assert_close(result.values, expected, rtol=0, atol=rounding)
    assert torch.isnan(result.recovered("logit_diff").mean).all()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_whole_stream_at_once_is_the_other_run(model, direction):
    result = activation_patching(model, pairs_for(model), kind="resid", positions="all", direction=direction)
    assert torch.equal(result.values, result.source[:, None].expand_as(result.values))
    assert not torch.equal(result.source, result.receiver)
    share = result.recovered("kl")
    torch.testing.assert_close(share.mean, torch.ones_like(share.mean))


@pytest.mark.parametrize(("kind", "positions"), [("resid", "each"), ("k", "each"), ("pattern_entry", "all")])
def test_batches_and_order_do_not_matter(model, kind, positions):
    pairs, order = pairs_for(model, n=5), torch.tensor([3, 0, 2, 4, 1])
    whole = activation_patching(model, pairs, kind=kind, positions=positions)
    small = activation_patching(model, pairs, kind=kind, positions=positions, batch_size=3)
    shuffled = activation_patching(model, pairs[order], kind=kind, positions=positions)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if model.cfg.d_vocab == 23 else {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(small.values, whole.values, **tolerance)
    torch.testing.assert_close(shuffled.values, whole.values[..., order], **tolerance)
    torch.testing.assert_close(shuffled.clean, whole.clean[:, order], **tolerance)


def test_no_forward_pass_holds_more_rows_than_asked(monkeypatch):
    """One query's cells at one site are never split, so 8 rows hold two queries of four cells."""
    sizes = []
    run = CausalSuffix.logits

    def watched(self, entering, before):
        sizes.append(sum(len(streams) for streams in entering) * entering[0].shape[1])
        return run(self, entering, before)

    monkeypatch.setattr(CausalSuffix, "logits", watched)
    activation_patching(make_net(), pairs_for(make_net()), kind="resid", batch_size=8)
    assert 3 < max(sizes) <= 8


@pytest.mark.parametrize("kind", ["resid", "v", "pattern_entry"])
@pytest.mark.parametrize("change", [{}, {"norm_position": "post"}])
def test_the_last_positions_alone_give_what_whole_passes_give(pairs, kind, change):
    """A hook that does nothing sends the net through its own forward passes."""
    net = make_net(**change)
    short = activation_patching(net, pairs, kind=kind)

    def look_on(activation, hook):
        return None

    with net.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", look_on)]):
        assert CausalSuffix.of(net) is None
        whole = activation_patching(net, pairs, kind=kind)
    torch.testing.assert_close(short.values, whole.values, rtol=0, atol=1e-9)
    assert CausalSuffix.of(net) is not None and CausalSuffix.of(make_net(attention_dir="bidirectional")) is None


def test_hooks_of_the_caller_act():
    """The caller has taken the MLPs' output away, and it stays away in every patched run."""
    net, pairs = make_net(), pairs_for(make_net())
    hooks = [
        (f"blocks.{layer}.hook_mlp_out", lambda activation, hook: 0 * activation + 0 * len(hook.name))
        for layer in range(3)
    ]
    with net.hooks(fwd_hooks=hooks):
        result = activation_patching(net, pairs, kind="resid")
        torch.testing.assert_close(result.values, naive_values(net, pairs, result), rtol=0, atol=1e-9)


def test_a_patch_after_the_answer_position_changes_nothing_in_a_causal_net(pairs):
    result = activation_patching(make_net(), pairs, kind="v")
    later = torch.arange(4)[:, None] > ANSWER_POSITION
    unchanged = (result.values == result.receiver[:, None, None, None]).movedim(2, 0).movedim(-1, 1).flatten(2).all(-1)
    assert unchanged[later].all() and not unchanged.all()


def test_noise_acts_on_the_embedding_of_the_corrupt_run(model):
    """The corrupt run by hooks of our own; patching the embedding everywhere undoes the noise."""
    queries = pairs_for(model).clean
    pairs = noise_pairs(model, queries, positions=["1"], generator=torch.Generator().manual_seed(0))
    result = activation_patching(model, pairs, kind="resid")
    noise = pairs.noise

    def add(embedded, hook):
        return embedded + noise.to(embedded)

    noisy, clean = logits_of(model, queries, ("hook_embed", add)), logits_of(model, queries)
    target = target_of(clean, answer=queries.answer, other_answer=queries.answer)
    torch.testing.assert_close(result.corrupt, target.metrics(noisy), rtol=1e-5, atol=1e-5)
    assert (result.corrupt[0] - result.clean[0]).abs().max() > 0.01
    # Noise on position 1 alone: the clean embedding there is the clean run, any other position changes nothing.
    assert torch.equal(result.values[:, 0, 1], result.clean)
    assert torch.equal(result.values[:, 0, 0], result.corrupt)


def test_hooks_gradients_and_random_state_are_left_alone(model):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    result = activation_patching(model, pairs_for(model), kind="k")
    result.frame("logit_diff")
    assert torch.equal(torch.rand(2), expected)
    assert not any(module._forward_hooks for name, module in model.named_modules() if "hook_" in name)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not result.values.requires_grad


# --- what the result says ---


@pytest.fixture(scope="module")
def result():
    net = make_net()
    return activation_patching(net, pairs_for(net, n=40), kind="z", direction="noising")


def test_recovered_is_a_ratio_of_means_with_a_bootstrap_interval(result):
    """The interval by a plain loop over the same draws."""
    share = result.recovered("kl", n_resamples=50, seed=4)
    i = METRICS.index("kl")
    start, end, patched = result.clean[i], result.corrupt[i], result.values[i]
    torch.testing.assert_close(share.mean, (patched.mean(-1) - start.mean()) / (end.mean() - start.mean()))
    drawn = torch.randint(0, 40, (50, 40), generator=derive_generator(4, "bootstrap", "mean"))
    draws = [
        (patched[..., rows].mean(-1) - start[rows].mean()) / (end[rows].mean() - start[rows].mean()) for rows in drawn
    ]
    low, high = torch.quantile(torch.stack(draws), torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    torch.testing.assert_close(share.low, low)
    torch.testing.assert_close(share.high, high)
    assert (share.low < share.high).sum() > 10


def test_nothing_is_recovered_where_the_runs_do_not_differ(result):
    """Each run answers half of the queries, not the same ones: no share can be given, whatever the patch does."""
    half = (torch.arange(40) % 2).double()
    clean, corrupt = half.expand(5, -1), (1 - half).expand(5, -1)
    share = replace(result, clean=clean, corrupt=corrupt).recovered("accuracy")
    assert all(torch.isnan(part).all() for part in (share.mean, share.low, share.high))
    rounded = clean + 1e-16 * torch.arange(40).double()
    assert torch.isnan(replace(result, clean=clean, corrupt=rounded).recovered("accuracy").mean).all()
    share = replace(result, clean=clean, corrupt=torch.zeros(5, 40).double()).recovered("accuracy")
    assert not any(torch.isnan(part).any() for part in (share.mean, share.low, share.high))


def test_frame(result):
    frame = result.frame()
    assert len(frame) == 5 * 3 * 4 * 3
    assert list(frame.columns[:5]) == ["site", "position", "head", "metric", "mean"]
    row = frame.set_index(["metric", "site", "position", "head"]).loc[("rank", "z 1", "2", "0")]
    i = METRICS.index("rank")
    assert row["mean"] == pytest.approx(float(result.values[i, 1, 2, 0].mean()))
    assert (row["clean"], row["corrupt"]) == pytest.approx(
        (float(result.clean[i].mean()), float(result.corrupt[i].mean()))
    )
    assert row["low"] <= row["mean"] <= row["high"] and row["n"] == 40
    assert (row["kind"], row["direction"], row["corruption"]) == ("z", "noising", "unrelated")
    assert set(result.frame("kl")["metric"]) == {"kl"}
    interval = result.interval("rank")
    assert float(interval.low[1, 2, 0]) == pytest.approx(row["low"])


def test_bad_input():
    net = make_net()
    pairs = pairs_for(net)
    with pytest.raises(ValueError, match="kind must be one of resid, resid_pre, resid_post, .* got 'resid_mod'"):
        activation_patching(net, pairs, kind="resid_mod")
    with pytest.raises(ValueError, match="direction must be one of denoising, noising, got 'both'"):
        activation_patching(net, pairs, kind="z", direction="both")
    with pytest.raises(ValueError, match="positions must be one of each, all, got 'some'"):
        activation_patching(net, pairs, kind="z", positions="some")
    with pytest.raises(ValueError, match="needs at least one pair of queries, got none"):
        activation_patching(net, pairs[:0], kind="z")
    with pytest.raises(ValueError, match="the model is in training mode"):
        activation_patching(make_net().train(), pairs, kind="z")
    with pytest.raises(ValueError, match="must have the same answer_position"):
        activation_patching(
            net, QueryPairs(pairs.clean, pairs.clean[torch.tensor([1, 0, 2, 3, 4, 5, 6])], "mine"), kind="z"
        )
    with pytest.raises(ValueError, match="metric must be one of logit_diff, .* got 'loss'"):
        activation_patching(net, pairs, kind="z").metric("loss")
