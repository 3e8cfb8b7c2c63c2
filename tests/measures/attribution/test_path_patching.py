"""Path patching of edges, against a net whose every reader has a stream of its own."""

import pytest
import torch
from gpt2_bridge import make_bridge
from small_nets import ONE_WIDE, VARIANTS, make_net, make_tokens

from circuit_lab.measures.attribution.edges import Edge, Reader, Writer, all_edges, readers_of, writers_of
from circuit_lab.measures.attribution.path_patching import path_patching
from circuit_lab.measures.metrics import METRICS, target_of
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.tasks import queries_from_tokens

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def make_pairs(n=5, *, noise=None, seed=1):
    """Queries answered at different positions, the pairs differing in one or two tokens."""
    clean = make_tokens(n, seed=seed)
    corrupt = clean.clone()
    corrupt[:, 1] = (corrupt[:, 1] + 3) % 17
    corrupt[::2, 0] = (corrupt[::2, 0] + 5) % 17
    position = torch.tensor([3, 2, 3, 1, 3]).repeat(n)[:n]
    answers = make_tokens(n, seed=seed + 50, n_ctx=2, d_vocab=13)
    names = ("a", "b", "c", "d")
    sides = [
        queries_from_tokens(tokens, answer, answer_position=position, position_names=names)
        for tokens, answer in ((clean, answers[:, 0]), (corrupt, answers[:, 1]))
    ]
    return QueryPairs(*sides, "b", noise)


def metrics_of(logits, clean_logits, pairs):
    target = target_of(clean_logits, answer=pairs.clean.answer, other_answer=pairs.corrupt.answer)
    return target.metrics(logits)


def logits_of(net, tokens, pairs, noise=None):
    def add(embedding, hook):
        return embedding if noise is None else embedding + noise

    hooks = [("hook_embed", add)]
    with torch.no_grad(), net.hooks(fwd_hooks=hooks):
        return net(tokens)[torch.arange(len(tokens)), pairs.clean.answer_position]


# A net in plain torch, in which each reader adds up its own input.


def norm(cfg, module, x):
    if cfg.normalization_type is None:
        return x
    if cfg.normalization_type == "LN":
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + cfg.eps).sqrt() * module.w
    return x + module.b if cfg.normalization_type == "LN" else x


def run_by_readers(net, tokens, noise=None, *, lent=None, edges=(), at=slice(None)):
    """Logits, and what each writer wrote; `edges` (writer and reader) carry `lent` instead, at the positions `at`."""
    cfg = net.cfg
    embedded = net.embed.W_E[tokens] + net.pos_embed.W_pos[: tokens.shape[1]]
    wrote, constants = {"embed": embedded if noise is None else embedded + noise}, torch.zeros(cfg.d_model)

    def reads(reader):
        total = constants + torch.zeros_like(embedded)
        for writer, output in wrote.items():
            carried = output.clone()
            if (writer, reader) in edges:
                carried[:, at] = lent[writer][:, at]
            total = total + carried
        return total

    act = {"gelu": torch.nn.functional.gelu, "relu": torch.relu}[cfg.act_fn]
    later = torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool()
    for layer, block in enumerate(net.blocks):
        attn, mlp, heads = block.attn, block.mlp, {}
        for h in range(cfg.n_heads):
            q, k, v = (
                norm(cfg, block.ln1, reads(f"{kind} {layer}.{h}")) @ weight[h] + bias[h]
                for kind, weight, bias in (
                    ("q", attn.W_Q, attn.b_Q),
                    ("k", attn.W_K, attn.b_K),
                    ("v", attn.W_V, attn.b_V),
                )
            )
            scores = q @ k.transpose(1, 2) / cfg.d_head**0.5
            if cfg.attention_dir == "causal":
                scores = scores.masked_fill(later, -torch.inf)
            heads[f"head {layer}.{h}"] = scores.softmax(-1) @ v @ attn.W_O[h]
        wrote |= heads
        constants = constants + attn.b_O
        hidden = act(norm(cfg, block.ln2, reads(f"mlp {layer}")) @ mlp.W_in + mlp.b_in)
        wrote[f"mlp {layer}"] = hidden @ mlp.W_out + mlp.b_out
    return norm(cfg, net.ln_final, reads("logits")) @ net.W_U + net.b_U, wrote


def patched_by_readers(net, pairs, direction, edges, at=slice(None)):
    """Metrics of the patched run, from the net of readers."""
    runs = [(pairs.clean.tokens, None), (pairs.corrupt.tokens, pairs.noise)]
    lending, receiving = runs if direction == "denoising" else runs[::-1]
    rows = torch.arange(len(pairs)), pairs.clean.answer_position
    with torch.no_grad():
        _, lent = run_by_readers(net, *lending)
        clean_logits, _ = run_by_readers(net, *runs[0])
        logits, _ = run_by_readers(net, *receiving, lent=lent, edges=edges, at=at)
    return metrics_of(logits[rows], clean_logits[rows], pairs)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_edge_equals_a_net_with_a_stream_per_reader(variant, direction):
    net, pairs = make_net(**VARIANTS[variant]), make_pairs()
    result = path_patching(net, pairs, direction=direction)
    assert [edge for (edge,) in result.edges.values()] == list(all_edges(net))
    some = range(0, len(result.edges), 1 if len(net.blocks) == 2 else 3)
    for i in some:
        (edge,) = list(result.edges.values())[i]
        expected = patched_by_readers(net, pairs, direction, {(edge.writer.label, edge.reader.label)})
        torch.testing.assert_close(result.values[:, i, 0], expected, **EXACT)
    effects = result.effects("logit_diff").abs().amax(-1)
    assert (effects > 1e-6).double().mean() > 0.8


def test_each_position_alone():
    net, pairs = make_net(**VARIANTS["bidirectional RMS, universal"]), make_pairs()
    edges = [Edge(Writer("embed"), Reader("k", 1, 2)), Edge(Writer("head", 0, 1), Reader("mlp", 1))]
    result = path_patching(net, pairs, edges=edges, positions="each")
    assert result.position_names == ("a", "b", "c", "d")
    for i, edge in enumerate(edges):
        for position in range(4):
            expected = patched_by_readers(
                net, pairs, "denoising", {(edge.writer.label, edge.reader.label)}, at=[position]
            )
            torch.testing.assert_close(result.values[:, i, position], expected, **EXACT)
    # The embedding differs at the first two positions only, and what does not differ changes nothing.
    effects = result.effects("logit_diff")[0]
    assert effects[2:].abs().max() < 1e-12 and effects[:2].abs().max() > 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
def test_sets_of_edges_are_patched_together(variant):
    """Readers behind a patched reader see its new output; writers lend what they wrote in the lending run."""
    net, pairs = make_net(**VARIANTS[variant]), make_pairs()
    chosen = all_edges(net)[1::3]
    result = path_patching(net, pairs, edges={"a third": chosen, "another": all_edges(net)[::4]}, direction="noising")
    expected = patched_by_readers(net, pairs, "noising", {(e.writer.label, e.reader.label) for e in chosen})
    torch.testing.assert_close(result.values[:, 0, 0], expected, **EXACT)
    alone = sum(path_patching(net, pairs, edges=chosen, direction="noising").effects("logit_diff"))
    assert not torch.allclose(result.effects("logit_diff")[0], alone, atol=1e-3)  # together is not the sum of each


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_patching_everything_gives_the_lending_run(variant, direction):
    net = make_net(**VARIANTS[variant])
    noise = torch.randn(5, 4, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pairs = make_pairs(noise=noise)
    everything = all_edges(net)
    sets = {
        "into the logits": [edge for edge in everything if edge.reader.kind == "logits"],
        "all": everything,
        "all, heads together": all_edges(net, heads="together"),
    }
    result = path_patching(net, pairs, edges=sets, direction=direction)
    clean = logits_of(net, pairs.clean.tokens, pairs)
    corrupt = logits_of(net, pairs.corrupt.tokens, pairs, noise)
    lending, receiving = (clean, corrupt) if direction == "denoising" else (corrupt, clean)
    torch.testing.assert_close(result.lending, metrics_of(lending, clean, pairs), **EXACT)
    torch.testing.assert_close(result.receiving, metrics_of(receiving, clean, pairs), **EXACT)
    for values in result.values.transpose(0, 1):
        torch.testing.assert_close(values[:, 0], result.lending, **EXACT)
    assert (result.lending[0] - result.receiving[0]).abs().min() > 1e-3


def test_a_run_patched_with_itself_stays_as_it_is():
    net, pairs = make_net(), make_pairs()
    same = QueryPairs(pairs.clean, pairs.clean, "nothing")
    result = path_patching(net, same)
    torch.testing.assert_close(result.values, result.receiving[:, None, None].expand_as(result.values), **EXACT)


def test_by_hand():
    """One layer, all widths 1, no norm: stream x, v = 2x, the head looks at itself alone, o = 3v, mlp = 4 relu.

    One position. Token 0 embeds to 1, token 1 to 2. Clean (2): head 12, mid 14, mlp 56, final 70. Corrupt (1): head 6,
    mid 7, mlp 28, final 35. Logits (x, -x), so logit difference 2x; denoising moves single edges of the corrupt run.
    """
    net = make_net(**ONE_WIDE, d_mlp=1)
    with torch.no_grad():
        net.embed.W_E.copy_(torch.tensor([[1.0], [2.0]]))
        net.pos_embed.W_pos.zero_()
        block = net.blocks[0]
        block.attn.W_V.fill_(2.0), block.attn.W_O.fill_(3.0), block.mlp.W_in.fill_(1.0), block.mlp.W_out.fill_(4.0)
        net.unembed.W_U.copy_(torch.tensor([[1.0, -1.0]]))
    pairs = QueryPairs(
        queries_from_tokens(torch.tensor([[1]]), torch.tensor([0])),
        queries_from_tokens(torch.tensor([[0]]), torch.tensor([1])),
        "token",
    )
    result = path_patching(net, pairs)
    assert dict(zip(result.edges, result.values[0, :, 0, 0].tolist(), strict=True)) == {
        "embed -> q 0.0": 70,
        "embed -> k 0.0": 70,
        "embed -> v 0.0": 2 * (1 + 12 + 4 * 13),  # the head writes 12, mid is 13
        "embed -> mlp 0": 2 * (1 + 6 + 4 * 8),
        "head 0.0 -> mlp 0": 2 * (1 + 6 + 4 * 13),
        "embed -> logits": 2 * 36,
        "head 0.0 -> logits": 2 * 41,
        "mlp 0 -> logits": 2 * 63,
    }
    assert (float(result.receiving[0]), float(result.lending[0])) == (70, 140)
    row = result.frame().query("edges == 'embed -> v 0.0' and metric == 'logit_diff'").iloc[0]
    assert (row.writer, row.reader, row.position, row.n) == ("embed", "v 0.0", "all", 1)
    assert (row.effect, row.recovered, row.value) == (60, 60 / 70, 130)
    same_answers = result.frame().query("metric == 'accuracy'")
    assert same_answers.recovered.isna().all()  # right before and after: nothing to recover


def test_heads_together_are_the_set_of_their_parts():
    net, pairs = make_net(), make_pairs()
    whole = Edge(Writer("attn", 0), Reader("attn", 2))
    parts = [
        Edge(Writer("head", 0, a), Reader(kind, 2, b)) for a in range(3) for kind in ("q", "k", "v") for b in range(3)
    ]
    assert set(whole.parts(3)) == set(parts)
    together = path_patching(net, pairs, edges={"whole": [whole], "parts": parts})
    torch.testing.assert_close(together.values[:, 0], together.values[:, 1], **EXACT)
    assert together.effects("logit_diff")[0].abs().max() > 1e-4


def test_edges_of_a_net():
    """Three layers of three heads: 10 readers per layer, each with the writers before it, and the logits."""
    net = make_net()
    edges = all_edges(net)
    assert len(edges) == len(set(edges)) == 9 * (1 + 5 + 9) + (4 + 8 + 12) + 13
    assert Edge(Writer("head", 1, 0), Reader("mlp", 1)) in edges
    assert Edge(Writer("head", 1, 0), Reader("q", 1, 1)) not in edges
    assert Edge(Writer("mlp", 1), Reader("mlp", 1)) not in edges
    together = all_edges(net, heads="together")
    assert len(together) == (1 + 3 + 5) + (2 + 4 + 6) + 7
    assert [w.label for w in writers_of(net.cfg)][:5] == ["embed", "head 0.0", "head 0.1", "head 0.2", "mlp 0"]
    assert [r.label for r in readers_of(net.cfg, heads="together")][-3:] == ["attn 2", "mlp 2", "logits"]


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_do_not_matter(batch_size):
    net, pairs = make_net(), make_pairs(noise=torch.randn(5, 4, 12, dtype=torch.float64))
    edges = [*all_edges(net)[::37], *all_edges(net, heads="together")[::9]]
    whole = path_patching(net, pairs, edges=edges, positions="each")
    parts = path_patching(net, pairs, edges=edges, positions="each", batch_size=batch_size)
    for name in ("values", "receiving", "lending"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), **EXACT)


def test_queries_keep_their_order_and_the_net_is_left_alone():
    net, pairs = make_net(), make_pairs()
    state, before = torch.get_rng_state(), [p.clone() for p in net.parameters()]
    order = torch.tensor([3, 0, 4, 1, 2])
    edges = all_edges(net)[::11]
    whole, shuffled = path_patching(net, pairs, edges=edges), path_patching(net, pairs[order], edges=edges)
    torch.testing.assert_close(shuffled.values, whole.values[..., order], **EXACT)
    assert torch.equal(torch.get_rng_state(), state) and net.list_hooks() == {}
    assert all(torch.equal(a, b) and b.requires_grad for a, b in zip(before, net.parameters(), strict=True))
    assert whole.values.shape[0] == len(METRICS) and whole.corruption == "b"


def test_bad_input():
    net, pairs = make_net(), make_pairs()
    with pytest.raises(ValueError, match='edges need a pre-norm net, got norm_position = "post"'):
        path_patching(make_net(norm_position="post"), pairs)
    with pytest.raises(ValueError, match=r"TransformerBridge.*transformer_lens.patching.get_act_patch_direct_path"):
        path_patching(make_bridge(), pairs)
    with pytest.raises(ValueError, match="direction must be one of denoising, noising, got 'up'"):
        path_patching(net, pairs, direction="up")
    with pytest.raises(ValueError, match="there are no query pairs to patch between, got 0"):
        path_patching(net, pairs[:0])
    with pytest.raises(ValueError, match="answered at the same position"):
        elsewhere = queries_from_tokens(pairs.corrupt.tokens, pairs.corrupt.answer)
        path_patching(net, QueryPairs(pairs.clean, elsewhere, "b"))
    with pytest.raises(ValueError, match="there is no edge 'mlp 1 -> q 1.0': q 1.0 reads before it is written"):
        path_patching(net, pairs, edges=[Edge(Writer("mlp", 1), Reader("q", 1, 0))])
    with pytest.raises(ValueError, match=r"no edge 'head 0.3 -> logits': it has layers 0..2 with heads 0..2"):
        path_patching(net, pairs, edges=[Edge(Writer("head", 0, 3), Reader("logits"))])
    with pytest.raises(ValueError, match="there are no edges to patch"):
        path_patching(net, pairs, edges=[])
    with pytest.raises(ValueError, match="the set of edges 'none' is empty"):
        path_patching(net, pairs, edges={"none": [], "all": all_edges(net)})
    with pytest.raises(ValueError, match="metric must be one of logit_diff, .*, got 'loss'"):
        path_patching(net, pairs, edges=all_edges(net)[:1]).effects("loss")
    with pytest.raises(ValueError, match="training mode"):
        path_patching(make_net().train(), pairs)
