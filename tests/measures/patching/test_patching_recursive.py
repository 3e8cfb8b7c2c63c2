"""Activation patching, causal tracing and ablation of recursive nets, against one hooked pass of the whole net."""

import itertools
from functools import cache

import pytest
import torch
from recursive_nets import MLP, make_recursive_net, recursive_tokens

from circuit_lab.measures.hooked_model import answer_logits
from circuit_lab.measures.metrics import target_of
from circuit_lab.measures.model_facts import layer_names, sites_read
from circuit_lab.measures.patching.ablation import ablation, ablation_components
from circuit_lab.measures.patching.activation_patching import activation_patching
from circuit_lab.measures.patching.causal_tracing import causal_tracing
from circuit_lab.measures.patching.patch_sites import PATCH_KINDS
from circuit_lab.measures.patching.query_pairs import QueryPairs, noise_pairs
from circuit_lab.tasks import queries_from_tokens

NETS = {
    "rotary": {"positions": "rotary", "l_cycles": 1},
    "learned, one block": {"positions": "learned", "n_blocks": 1, "l_cycles": 2, "n_prefix": 0},
    "position MLP": {**MLP, "l_cycles": 1},
}
N_PREFIX = {"rotary": 2, "learned, one block": 0, "position MLP": 2}
MIXER = {"rotary": "attn_out", "learned, one block": "attn_out", "position MLP": "pos_mlp_out"}
ANSWER_POSITION = torch.tensor([2, 2, 1])


@cache
def kept_net(name):
    return make_recursive_net(n_ctx=3, **NETS[name])


def queries_of(seed):
    tokens = recursive_tokens(3, seed=seed, n_ctx=3)
    answers = torch.randint(13, (3,), generator=torch.Generator().manual_seed(seed))
    return queries_from_tokens(tokens, answers, answer_position=ANSWER_POSITION, position_names="abc")


def pairs_of():
    return QueryPairs(queries_of(1), queries_of(2), "unrelated")


def logits_of(net, queries, *hooks):
    return answer_logits(net, queries.tokens, queries.answer_position, fwd_hooks=hooks)


def hook_of(net, kind, site):
    if kind == "resid":
        return net.lens_sites[site].hook_name
    return f"blocks.{site}.{PATCH_KINDS[kind].hook or f'hook_{kind}'}"


@torch.no_grad()
def naive_values(net, pairs, result, n_prefix):
    """One pass of the whole net from its tokens per cell."""
    denoising = result.direction == "denoising"
    source, receiver = (pairs.clean, pairs.corrupt) if denoising else (pairs.corrupt, pairs.clean)
    target = target_of(logits_of(net, pairs.clean), answer=pairs.clean.answer, other_answer=pairs.corrupt.answer)
    _, cache = net.run_with_cache(source.tokens)
    values = torch.empty_like(result.values)
    for cell in itertools.product(*map(range, result.values.shape[1:-1])):
        where = dict(zip(result.axes[1:], cell[1:], strict=True))
        row = n_prefix + where["position"] if "position" in where else slice(None)
        if result.kind.startswith("pattern"):
            looked_at = n_prefix + where["source"] if "source" in where else slice(None)
            index = (slice(None), where["head"], row, looked_at)
        else:
            index = (slice(None), row, where["head"]) if "head" in where else (slice(None), row)

        def put(activation, hook, index=index):
            activation = activation.clone()
            activation[index] = cache[hook.name][index]
            return activation

        hook = (hook_of(net, result.kind, cell[0]), put)
        values[(slice(None), *cell)] = target.metrics(logits_of(net, receiver, hook))
    return values


CASES = [(name, kind) for name in NETS for kind in ("resid", "resid_pre", "resid_mid", MIXER[name], "mlp_out")]
CASES += [("rotary", kind) for kind in ("resid_post", "z", "q", "k", "v", "pattern", "pattern_entry")]


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(("positions", "direction"), [("each", "denoising"), ("all", "noising")])
def test_against_one_pass_per_cell(name, kind, positions, direction):
    net, pairs = kept_net(name), pairs_of()
    result = activation_patching(net, pairs, kind=kind, positions=positions, direction=direction, batch_size=50)
    expected = naive_values(net, pairs, result, N_PREFIX[name])
    torch.testing.assert_close(result.values, expected, rtol=0, atol=1e-12)
    # Each site's patch does something: an unread state would pass any test.
    last_stream_is_read = kind != "resid" or positions == "all"
    effect = (result.values - result.receiver.view(5, *[1] * len(result.axes), 3)).abs()
    assert (effect[0].flatten(1).amax(1) > 1e-9).all() or not last_stream_is_read


def test_the_labels_are_steps():
    net = kept_net("rotary")
    grid = activation_patching(net, pairs_of(), kind="resid")
    assert grid.labels[0] == tuple(site.label for site in net.lens_sites)
    assert grid.labels[0] == ("embed", "H0.L0", "H0.commit", "H1.L0", "H1.commit")
    of_layers = activation_patching(net, pairs_of(), kind="mlp_out").labels[0]
    assert of_layers[:3] == ("mlp_out H0.L0 block 0", "mlp_out H0.L0 block 1", "mlp_out H0.commit block 0")
    assert layer_names(kept_net("learned, one block"))[1:4] == ("H0.L1", "H0.commit", "H1.L0")


@pytest.mark.parametrize("name", NETS)
def test_patching_with_itself_changes_nothing(name):
    net, pairs = kept_net(name), pairs_of()
    for kind in ("resid", MIXER[name], "mlp_out"):
        result = activation_patching(net, QueryPairs(pairs.clean, pairs.clean, "nothing"), kind=kind)
        expected = result.clean.view(5, 1, 1, 3).expand_as(result.values)
        torch.testing.assert_close(result.values, expected, rtol=0, atol=1e-12)


def test_one_whole_stream_is_not_the_whole_run():
    """All of z_L from the other run, with z_H and the input left: neither run, unless nothing else is read."""
    result = activation_patching(kept_net("rotary"), pairs_of(), kind="resid", positions="all")
    of_site = dict(zip(result.labels[0], result.metric("logit_diff"), strict=True))
    for label in ("H0.L0", "H0.commit", "H1.L0"):
        assert not torch.allclose(of_site[label], result.source[0], atol=1e-6)
        assert not torch.allclose(of_site[label], result.receiver[0], atol=1e-6)
    for label in ("embed", "H1.commit"):
        assert torch.equal(of_site[label], result.source[0])


@pytest.mark.parametrize("name", [*NETS])
def test_noise_is_in_every_reading_of_the_input(name):
    """The corrupt run by a hook of our own: its noise is read by each inner step, not by the first alone."""
    net, queries = kept_net(name), queries_of(1)
    pairs = noise_pairs(net, queries, positions=["b"], generator=torch.Generator().manual_seed(0))
    assert pairs.noise is not None
    noise = pairs.noise
    size = net.W_E.detach().std() * 12**0.5 / (2**0.5 if "learned" in name else 1)
    assert 0.7 < float(noise[:, 1].std() / (3 * size)) < 1.3
    result = activation_patching(net, pairs, kind="resid")

    def add(embedded, hook):
        embedded = embedded.clone()
        embedded[:, -3:] += noise
        return embedded

    target = target_of(logits_of(net, queries), answer=queries.answer, other_answer=queries.answer)
    noisy = target.metrics(logits_of(net, queries, ("hook_embed", add)))
    torch.testing.assert_close(result.corrupt, noisy, rtol=0, atol=1e-12)
    assert (result.corrupt[0] - result.clean[0]).abs().max() > 1e-3
    torch.testing.assert_close(result.values[:, 0, 1], result.clean, rtol=0, atol=1e-12)
    assert torch.equal(result.values[:, 0, 0], result.corrupt)


def test_kinds_that_a_net_has_not():
    with pytest.raises(ValueError, match="mixes positions by an MLP.* so there is no attn_out; its output is pos_mlp"):
        activation_patching(kept_net("position MLP"), pairs_of(), kind="attn_out")
    with pytest.raises(ValueError, match="mixes positions by attention, so there is no pos_mlp_out"):
        activation_patching(kept_net("rotary"), pairs_of(), kind="pos_mlp_out")


# --- ablation ---


@torch.no_grad()
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
@pytest.mark.parametrize("scope", ["application", "parameters"])
@pytest.mark.parametrize("name", [pytest.param("rotary", marks=pytest.mark.slow), *[*NETS][1:]])
def test_ablation_against_whole_passes(name, scope, how):
    net, queries, n_prefix = kept_net(name), queries_of(1), N_PREFIX[name]
    reference = queries_of(3)
    generator = torch.Generator().manual_seed(0)
    given = {"generator": generator} if how == "resample" else {}
    given |= {} if how == "zero" else {"reference": reference}
    result = ablation(net, queries, how=how, scope=scope, positions=["a", "c"], n_resamples=2, **given)
    drawn = torch.randint(3, (2, 3), generator=torch.Generator().manual_seed(0)) if how == "resample" else None
    _, cache = net.run_with_cache(reference.tokens)
    target = target_of(logits_of(net, queries), answer=queries.answer, other_answer=queries.answer)
    for number, component in enumerate(result.components):
        rows = [n_prefix + p for p in ([0, 2] if component.position is None else [component.position])]
        index = (slice(None), rows) if component.head is None else (slice(None), rows, component.head)
        of_draws = []
        for draw in range(1 if drawn is None else 2):

            def put(activation, hook, index=index, draw=draw):
                activation = activation.clone()
                found = 0 * activation if how == "zero" else cache[hook.name]
                found = found.mean(0, keepdim=True).expand_as(activation) if how == "mean" else found
                activation[index] = (found if drawn is None else found[drawn[draw]])[index]
                return activation

            hooks = [(hook, put) for hook in component.hook_names()]
            of_draws.append(target.metrics(logits_of(net, queries, *hooks)))
        expected = torch.stack(of_draws).mean(0)
        torch.testing.assert_close(result.ablated[:, number], expected, rtol=0, atol=1e-12, msg=component.label)


def test_components_are_named_by_step():
    labels = [c.label for c in ablation_components(kept_net("learned, one block"), ("h", "r1"))]
    assert labels[:6] == ["embed @ h", "embed @ r1", "H0.L0 head 0", "H0.L0 head 1", "H0.L0 head 2", "H0.L0 attn"]
    assert "H1.commit attn+mlp" in labels
    shared = [c.label for c in ablation_components(kept_net("position MLP"), "h", scope="parameters")]
    layers = "0, 2, 4, 6"
    assert shared[:3] == ["embed", f"block 0 pos_mlp (layers {layers})", f"block 0 mlp (layers {layers})"]


def test_zero_ablation_of_a_block_is_taking_its_weights_away():
    """Without a prefix, whose positions are never replaced."""
    net, queries = make_recursive_net(n_ctx=3, n_prefix=0, l_cycles=1), queries_of(1)
    (label,) = (
        c.label for c in ablation_components(net, "abc", scope="parameters") if c.label.startswith("block 1 mlp")
    )
    result = ablation(net, queries, how="zero", scope="parameters", components=[label])
    target = target_of(logits_of(net, queries), answer=queries.answer, other_answer=queries.answer)
    with torch.no_grad():
        net.blocks[1].mlp.W_out.zero_()
        torch.testing.assert_close(result.ablated[:, 0], target.metrics(logits_of(net, queries)))
    assert not torch.allclose(result.ablated[0, 0], result.intact[0])


# --- causal tracing ---


def two_hop_queries(net, n=40):
    tokens = recursive_tokens(n, seed=5, n_ctx=3) % net.cfg.d_vocab
    with torch.no_grad():
        answers = net(tokens)[:, -1].argmax(-1)
    bridge = torch.randint(13, (n,), generator=torch.Generator().manual_seed(6))
    return queries_from_tokens(tokens, answers, position_names=("h", "r1", "r2"), intermediates={"bridge": bridge})


def test_causal_tracing_joins_each_step_to_what_it_reads():
    net = make_recursive_net(n_ctx=3, l_cycles=2, n_blocks=1, d_vocab=5)
    queries = two_hop_queries(net)
    traced = causal_tracing(net, queries, queries, generator=torch.Generator().manual_seed(0), changes=("h", "r2"))
    labels = ("embed", "H0.L0", "H0.L1", "H0.commit", "H1.L0", "H1.L1", "H1.commit")
    assert traced.sites == labels and not traced.causal
    read = {labels[later]: [labels[site] for site in of] for later, of in enumerate(traced.reads)}
    assert read == {
        "embed": [],
        "H0.L0": ["embed"],
        "H0.L1": ["embed", "H0.L0"],
        "H0.commit": ["H0.L1"],
        "H1.L0": ["embed", "H0.L1", "H0.commit"],
        "H1.L1": ["embed", "H0.commit", "H1.L0"],
        "H1.commit": ["H0.commit", "H1.L1"],
    }
    edges = {(row["from_site"], row["to_site"]) for row in traced.circuit().to_dict("records")}
    assert edges <= {(site, later) for later, of in read.items() for site in of}
    # z_H after the last commit is all that the logits read, at the answer's position.
    lost = traced.effects[0].lost.mean
    assert float(lost[-1, 2]) == 1.0 and lost[-1, :2].tolist() == [0.0, 0.0]


def test_a_causal_net_carries_nothing_back():
    net = make_recursive_net(n_ctx=3, l_cycles=1, n_blocks=1, d_vocab=5, attention_dir="causal")
    queries = two_hop_queries(net)
    traced = causal_tracing(net, queries, queries, generator=torch.Generator().manual_seed(0), changes=("r2",))
    assert traced.causal
    edges = traced.circuit()
    names = list(queries.position_names)
    assert all(names.index(row["from_position"]) <= names.index(row["to_position"]) for _, row in edges.iterrows())


def test_the_lens_reads_the_tokens_positions():
    net = make_recursive_net(n_ctx=3, l_cycles=2, n_blocks=1, d_vocab=5)
    queries = two_hop_queries(net)
    traced = causal_tracing(net, queries, queries, generator=torch.Generator().manual_seed(0), changes=("h",))
    _, cache = net.run_with_cache(queries.tokens)
    for i, site in enumerate(net.lens_sites):
        logits = cache[site.hook_name][:, 2 + 1] @ net.W_U  # two prefix positions, then h, then r1
        bridge = queries.intermediates["bridge"][:, None]
        rank = (logits >= logits.gather(1, bridge)).sum(1)
        assert float(traced.lens_mrr.mean[0, i]) == pytest.approx(float((1 / rank).mean()))


def test_what_a_step_reads_changes_it_and_nothing_else_does():
    """Each step of a real net, by hand: replace one earlier site's state and see whether the step's output moves."""
    net, pairs = kept_net("learned, one block"), pairs_of()
    sites = net.lens_sites
    names = [site.hook_name for site in sites]
    with torch.no_grad():
        _, plain = net.run_with_cache(pairs.clean.tokens, names_filter=names)
        for later in range(1, len(sites)):
            read = sites_read(sites, later)
            for earlier in range(later):
                # The state as the later step would read it: replaced after everything in between has run.
                changed = replaced_for_one_step(net, plain, earlier, later)
                moved = not torch.allclose(changed, plain[names[later]], atol=1e-9)
                assert moved == (earlier in read), (sites[earlier].label, sites[later].label)


def replaced_for_one_step(net, plain, earlier, later):
    """The state at a later site when the streams just before its step hold one of the earlier states plus 1."""
    sites, last = net.lens_sites, {}
    for number in range(later):
        last[sites[number].stream] = plain[sites[number].hook_name] + (number == earlier)
    z_L, z_H = (last.get(stream, initial) for stream, initial in (("z_L", net.z_L_init), ("z_H", net.z_H_init)))
    stream = z_H + z_L if sites[later].stream == "z_H" else z_L + z_H + last["input"]
    for block in net.blocks[sites[later - 1].layer : sites[later].layer]:
        stream = block(stream, None)
    return stream
