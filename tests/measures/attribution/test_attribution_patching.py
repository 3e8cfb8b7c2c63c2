"""Attribution patching of nodes and edges, against finite interventions, TransformerLens and its own identities."""

import pytest
import torch
from gpt2_bridge import make_bridge, make_prompts
from pairwise_attribution import transformer_lens_scores
from small_nets import ONE_WIDE, VARIANTS, make_net, make_tokens

from circuit_lab.measures.attribution.attribution_patching import NODE_AXES, attribution_patching
from circuit_lab.measures.attribution.attribution_runs import shares_of_path
from circuit_lab.measures.attribution.edge_attribution import edge_attribution_patching
from circuit_lab.measures.attribution.edges import Edge, Reader, Writer, all_edges, writers_of
from circuit_lab.measures.attribution.path_patching import path_patching
from circuit_lab.measures.hooked_model import activations
from circuit_lab.measures.metrics import METRICS, target_of
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.tasks import queries_from_tokens

VARIANTS = {
    **VARIANTS,
    "post-norm": {"norm_position": "post", "normalization_type": "RMS", "attention_dir": "bidirectional"},
}
PRE_NORM = [name for name in VARIANTS if name != "post-norm"]
IN_LAYERS = [kind for kind in NODE_AXES if kind not in ("resid", "pos_mlp_out")]
"""Kinds that a transformer with attention has in each layer."""
STREAM_HOOKS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def make_pairs(n=4, *, n_ctx=4, d_vocab=17, d_vocab_out=13, seed=1, tokens=make_tokens):
    clean, corrupt = (tokens(n, seed=seed + i, n_ctx=n_ctx, d_vocab=d_vocab) for i in (0, 20))
    answers = make_tokens(n, seed=seed + 50, n_ctx=2, d_vocab=d_vocab_out)
    position = torch.tensor([n_ctx - 1, n_ctx - 2]).repeat(n)[:n]
    sides = [
        queries_from_tokens(part, answer, answer_position=position)
        for part, answer in ((clean, answers[:, 0]), (corrupt, answers[:, 1]))
    ]
    return QueryPairs(*sides, "everything")


def metric_of(model, pairs, metric):
    """The metric of logits at all positions, against the clean run as it is now."""
    rows = torch.arange(len(pairs)), pairs.clean.answer_position
    with torch.no_grad():
        clean = model(pairs.clean.tokens)[rows]
    target = target_of(clean, answer=pairs.clean.answer, other_answer=pairs.corrupt.answer)
    return lambda logits: target.metrics(logits[rows])[METRICS.index(metric)]


def hook_of(kind, layer):
    inner = "" if kind in STREAM_HOOKS else "attn."
    return f"blocks.{layer}.{inner}hook_{kind.removesuffix('_entry')}"


def index_of(kind, cell):
    """Where in the hook's tensor a cell lies."""
    if kind in STREAM_HOOKS:
        return (slice(None), cell[1])
    if kind == "pattern":
        return (slice(None), cell[2], cell[1])
    if kind == "pattern_entry":
        return (slice(None), cell[2], cell[1], cell[3])
    return (slice(None), cell[1], cell[2])


def effect_of_a_small_patch(model, pairs, kind, cell, metric, *, direction="denoising", size=1e-5):
    """Central differences of moving one activation `size` of the way to the lending run's."""
    tokens = pairs.clean.tokens, pairs.corrupt.tokens
    lending, receiving = tokens if direction == "denoising" else tokens[::-1]
    is_bridge_mid = kind == "resid_mid" and not hasattr(model, "lens_sites")
    name, index = hook_of(kind, cell[0]), index_of(kind, cell)
    with torch.no_grad():
        there, here = (activations(model, tokens, [name])[name] for tokens in (lending, receiving))
    measured = metric_of(model, pairs, metric)
    # What is added to attention's output moves the stream after it.
    put_in = hook_of("attn_out", cell[0]) if is_bridge_mid else name

    def moved(step):
        def move(activation, hook):
            activation = activation.clone()
            activation[index] += step * (there - here)[index]
            return activation

        with torch.no_grad(), model.hooks(fwd_hooks=[(put_in, move)]):
            return measured(model(receiving))

    return (moved(size) - moved(-size)) / (2 * size)


def some_cells(effects, n=3):
    cells = [tuple(row) for row in torch.ones(effects.shape[:-1]).nonzero().tolist()]
    return cells[:: max(1, len(cells) // n)]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nodes_equal_a_small_patch(variant, direction):
    net, pairs = make_net(**VARIANTS[variant]), make_pairs()
    metric = "logit_diff" if direction == "noising" else "probability"
    result = attribution_patching(net, pairs, kinds=IN_LAYERS, direction=direction, metric=metric)
    assert set(result.effects) == set(IN_LAYERS)
    for kind, effects in result.effects.items():
        assert effects.abs().max() > 1e-3, kind
        for cell in some_cells(effects):
            expected = effect_of_a_small_patch(net, pairs, kind, cell, metric, direction=direction)
            torch.testing.assert_close(effects[cell], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("variant", ["causal LN, cycle", "post-norm"])
def test_lens_sites_are_the_embedding_and_every_layers_output(variant):
    net, kinds = make_net(**VARIANTS[variant]), ["resid", "resid_pre", "resid_post"]
    result = attribution_patching(net, make_pairs(), kinds=kinds)
    effects = result.effects
    assert torch.equal(effects["resid"], torch.cat([effects["resid_pre"][:1], effects["resid_post"]]))
    assert result.labels("resid")[3:5] == ["embed @ 3", "resid_post 0 @ 0"]


def test_nodes_of_a_bridge_equal_a_small_patch():
    bridge = make_bridge().to(torch.float64)
    pairs = make_pairs(n_ctx=5, d_vocab=23, d_vocab_out=23, tokens=make_prompts)
    result = attribution_patching(bridge, pairs, kinds=IN_LAYERS, metric="kl")
    for kind, effects in result.effects.items():
        assert effects.abs().max() > 1e-3, kind
        for cell in some_cells(effects):
            expected = effect_of_a_small_patch(bridge, pairs, kind, cell, "kl")
            torch.testing.assert_close(effects[cell], expected, rtol=1e-5, atol=1e-6)


def assert_equal_to_transformer_lens(model, pairs):
    assert (pairs.clean.answer != pairs.corrupt.answer).all()
    mean = {kind: effects.mean(-1) for kind, effects in attribution_patching(model, pairs).effects.items()}
    theirs = transformer_lens_scores(model, pairs)
    n_ctx = pairs.clean.tokens.shape[1]
    assert len(theirs) == n_ctx * (1 + model.cfg.n_layers * (1 + model.cfg.n_heads))
    for node, score in theirs.items():
        ours = {
            "embed": lambda n: mean["resid_pre"][0, n.position],
            "mlp_out": lambda n: mean["mlp_out"][n.layer, n.position],
            "attn_head_out": lambda n: mean["z"][n.layer, n.position, n.head],
        }[node.kind](node)
        assert float(ours) == pytest.approx(score, rel=1e-5, abs=1e-5), node
    assert max(map(abs, theirs.values())) > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_nodes_equal_transformer_lens(variant):
    assert_equal_to_transformer_lens(make_net(**VARIANTS[variant]), make_pairs())


def test_nodes_of_a_bridge_equal_transformer_lens():
    pairs = make_pairs(n_ctx=5, d_vocab=23, d_vocab_out=23, tokens=make_prompts)
    assert_equal_to_transformer_lens(make_bridge(), pairs)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("variant", PRE_NORM)
def test_edges_are_the_derivative_of_path_patching(variant, direction, monkeypatch):
    """Path patching with the writers' differences scaled by +-1e-5; each edge and position by itself."""
    from circuit_lab.measures.attribution import path_patching as module

    net, pairs = make_net(**VARIANTS[variant]), make_pairs()
    edges = all_edges(net)[:: 3 if len(net.blocks) > 2 else 1]
    result = edge_attribution_patching(net, pairs, edges=edges, positions="each", direction=direction, metric="kl")
    exact_runs = module._Runs.of

    def scaled(size):
        def of(net, batch, direction):
            runs = exact_runs(net, batch, direction)
            writers = runs.receiving.writers + size * (runs.lending.writers - runs.receiving.writers)
            return module._Runs(
                module.StreamRun(runs.lending.states, writers), runs.receiving, runs.answer_position, runs.target
            )

        monkeypatch.setattr(module._Runs, "of", of)
        return path_patching(net, pairs, edges=edges, positions="each", direction=direction).effects("kl")

    derivative = (scaled(1e-5) - scaled(-1e-5)) / 2e-5
    if direction == "denoising":
        torch.testing.assert_close(result.effects, derivative, rtol=1e-6, atol=1e-8)
        assert (result.effects.abs().amax((1, 2)) > 1e-5).double().mean() > 0.8
    else:  # the clean run's distribution is its own reference, so nothing changes to first order
        assert result.effects.abs().max() < 1e-9 and derivative.abs().max() < 1e-5


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("variant", PRE_NORM)
def test_a_writers_edges_add_up_to_its_node(variant, n_steps):
    net, pairs = make_net(**VARIANTS[variant]), make_pairs()
    nodes = attribution_patching(net, pairs, n_steps=n_steps).effects
    edges = edge_attribution_patching(net, pairs, positions="each", n_steps=n_steps)
    for writer in writers_of(net.cfg):
        rows = [i for i, edge in enumerate(edges.edges) if edge.writer == writer]
        expected = {
            "embed": lambda: nodes["resid_pre"][0],
            "head": lambda w=writer: nodes["z"][w.layer, :, w.head],
            "mlp": lambda w=writer: nodes["mlp_out"][w.layer],
        }[writer.kind]()
        torch.testing.assert_close(edges.effects[rows].sum(0), expected, rtol=1e-9, atol=1e-12)
    summed = edge_attribution_patching(net, pairs, n_steps=n_steps)
    torch.testing.assert_close(summed.effects, edges.effects.sum(1, keepdim=True), rtol=1e-9, atol=1e-12)


def test_whole_attention_is_the_sum_of_its_heads():
    net, pairs = make_net(), make_pairs()
    whole = Edge(Writer("attn", 0), Reader("attn", 2))
    effects = edge_attribution_patching(net, pairs, edges=[whole, *whole.parts(3)]).effects
    torch.testing.assert_close(effects[0], effects[1:].sum(0), rtol=1e-9, atol=1e-12)
    assert len(effects) == 1 + 3 * 3 * 3 and effects[0].abs().max() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_integrated_gradients_add_up_to_the_difference_between_the_runs(variant):
    # Smooth throughout: a kink costs the midpoints their second order.
    net, pairs = make_net(**{**VARIANTS[variant], "act_fn": "gelu"}), make_pairs()
    for metric, direction in (("logit_diff", "denoising"), ("probability", "noising")):
        result = attribution_patching(net, pairs, kinds=["resid_pre"], n_steps=40, metric=metric, direction=direction)
        gap = result.lending - result.receiving
        torch.testing.assert_close(result.effects["resid_pre"][0].sum(0), gap, rtol=1e-3, atol=1e-3)
        plain = attribution_patching(net, pairs, kinds=["resid_pre"], metric=metric, direction=direction)
        assert (plain.effects["resid_pre"][0].sum(0) - gap).abs().max() > 0.01


def test_integrated_gradients_by_hand():
    """One position, width 1, no norm, attention 0, MLP relu(x) + relu(-x) = |x|, logits (y, -y) with y = x + |x|.

    Corrupt x = -1 (y = 0), clean x = 3 (y = 6): the logit difference 2y goes from 0 to 12. Its slope in x is 0 below 0
    and 4 above. Plain: the difference of x, 4, times the slope 0 at -1. Four steps: slopes 0, 4, 4, 4 at -.5, .5, 1.5,
    2.5, mean 3, times 4 = 12. Edges: 2|x| has slope -2 at -1, and (-2 + 2 + 2 + 2) / 4 = 1 on the way, times 4; the
    direct edge gives 2 x 4 either way.
    """
    net = make_net(**ONE_WIDE, d_mlp=2)
    with torch.no_grad():
        net.embed.W_E.copy_(torch.tensor([[3.0], [-1.0]]))
        net.pos_embed.W_pos.zero_(), net.blocks[0].attn.W_O.zero_()
        net.blocks[0].mlp.W_in.copy_(torch.tensor([[1.0, -1.0]]))
        net.blocks[0].mlp.W_out.fill_(1.0)
        net.unembed.W_U.copy_(torch.tensor([[1.0, -1.0]]))
    pairs = QueryPairs(
        queries_from_tokens(torch.tensor([[0]]), torch.tensor([0])),
        queries_from_tokens(torch.tensor([[1]]), torch.tensor([1])),
        "token",
    )
    edges = [Edge(Writer("embed"), Reader("mlp", 0)), Edge(Writer("embed"), Reader("logits"))]
    for n_steps, node, into_mlp in ((1, 0, -8), (4, 12, 4)):
        nodes = attribution_patching(net, pairs, kinds=["resid_pre", "mlp_out"], n_steps=n_steps)
        assert nodes.effects["resid_pre"].tolist() == [[[node]]]
        assert nodes.effects["mlp_out"].tolist() == [[[2 * (3 - 1)]]]
        by_edge = edge_attribution_patching(net, pairs, edges=edges, n_steps=n_steps)
        assert by_edge.effects.flatten().tolist() == [into_mlp, 8]
        assert (float(by_edge.receiving), float(by_edge.lending)) == (0, 12)
    assert shares_of_path(4) == [0.125, 0.375, 0.625, 0.875]


def test_labels_and_frames():
    net, pairs = make_net(), make_pairs()
    result = attribution_patching(net, pairs, kinds=["z", "pattern_entry", "mlp_out"], n_steps=2)
    frame = result.frame()
    assert len(frame) == 3 * 4 * 3 + 3 * 4 * 3 * 4 + 3 * 4
    assert result.labels("z")[:4] == ["z 0.0 @ 0", "z 0.1 @ 0", "z 0.2 @ 0", "z 0.0 @ 1"]
    assert list(frame["node"]) == [label for kind in result.effects for label in result.labels(kind)]
    row = frame.set_index("node").loc["pattern_entry 2.1 @ 3 <- 2"]
    effects = result.effects["pattern_entry"][2, 3, 1, 2]
    assert row.effect == pytest.approx(float(effects.mean())) and row.low <= row.effect <= row.high
    assert (row.layer, row.position, row["head"], row.source, row.n_steps, row.n) == (2, "3", 1, "2", 2, 4)
    others = frame.set_index("node").loc[["mlp_out 1 @ 0"]]
    assert others["source"].isna().all() and others["head"].isna().all()
    edges = edge_attribution_patching(net, pairs, edges=all_edges(net)[:5], positions="each")
    row = edges.frame().set_index(["edges", "position"]).loc[("embed -> q 0.1", "2")]
    assert row.effect == pytest.approx(float(edges.effects[1, 2].mean())) and row.reader == "q 0.1"


def test_a_run_attributed_to_itself_is_zero():
    net, pairs = make_net(), make_pairs()
    same = QueryPairs(pairs.clean, pairs.clean, "nothing")
    assert all((effects == 0).all() for effects in attribution_patching(net, same).effects.values())
    assert (edge_attribution_patching(net, same, n_steps=3).effects == 0).all()


@pytest.mark.parametrize("n_steps", [1, 2])
def test_batches_and_order_do_not_matter_and_the_net_is_left_alone(n_steps):
    net, pairs = make_net(), make_pairs(5)
    noise = torch.randn(5, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = QueryPairs(pairs.clean, pairs.corrupt, "noise", noise)
    for parameter in list(net.parameters())[::2]:
        parameter.requires_grad_(False)
    flags, order = [p.requires_grad for p in net.parameters()], torch.tensor([4, 2, 0, 3, 1])
    state = torch.get_rng_state()
    whole = attribution_patching(net, pairs, n_steps=n_steps)
    for other, rows in (
        (attribution_patching(net, pairs, n_steps=n_steps, batch_size=3), slice(None)),
        (attribution_patching(net, pairs[order], n_steps=n_steps), order),
    ):
        for kind, effects in whole.effects.items():
            torch.testing.assert_close(other.effects[kind], effects[..., rows], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(other.lending, whole.lending[rows])
    edges = edge_attribution_patching(net, pairs, n_steps=n_steps)
    assert not edges.effects.requires_grad and not whole.effects["z"].requires_grad
    in_parts = edge_attribution_patching(net, pairs, n_steps=n_steps, batch_size=2)
    torch.testing.assert_close(in_parts.effects, edges.effects, rtol=1e-9, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state) and net.list_hooks() == {}
    assert [p.requires_grad for p in net.parameters()] == flags and all(p.grad is None for p in net.parameters())
    with torch.no_grad():  # the caller's grad mode does not matter either
        torch.testing.assert_close(edge_attribution_patching(net, pairs, n_steps=n_steps).effects, edges.effects)


def test_bad_input():
    net, pairs = make_net(), make_pairs()
    with pytest.raises(ValueError, match=r"kinds must be among resid, resid_pre, .*, got \['heads'\]"):
        attribution_patching(net, pairs, kinds=["heads"])
    for function in (attribution_patching, edge_attribution_patching):
        with pytest.raises(ValueError, match=r"must have a gradient \(logit_diff, probability, kl\), got 'accuracy'"):
            function(net, pairs, metric="accuracy")
        with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
            function(net, pairs, n_steps=0)
        with pytest.raises(ValueError, match="there are no query pairs"):
            function(net, pairs[:0])
        with pytest.raises(ValueError, match="training mode"):
            function(make_net().train(), pairs)
    with pytest.raises(ValueError, match="edges need a pre-norm net"):
        edge_attribution_patching(make_net(norm_position="post"), pairs)
    with pytest.raises(ValueError, match=r'EdgeAttributionConfig\(granularity="edge"\)'):
        edge_attribution_patching(make_bridge(), make_pairs(n_ctx=5, d_vocab=23, d_vocab_out=23))
    with pytest.raises(ValueError, match="there is no edge 'mlp 1 -> q 1.0'"):
        edge_attribution_patching(net, pairs, edges=[Edge(Writer("mlp", 1), Reader("q", 1, 0))])


def test_the_middle_of_a_bridges_layer_is_the_stream_and_not_its_branch():
    """Where the input of ln2 is a copy, a gradient taken there lacks the way past the MLP."""
    bridge = make_bridge()
    pairs = make_pairs(n_ctx=5, d_vocab=23, d_vocab_out=23, tokens=make_prompts)
    plain = attribution_patching(bridge, pairs, kinds=["resid_mid"]).effects["resid_mid"]

    def copy(residual, hook):
        return residual.clone()

    with bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_mid", copy) for layer in range(3)]):
        copied = attribution_patching(bridge, pairs, kinds=["resid_mid"]).effects["resid_mid"]
    torch.testing.assert_close(copied, plain)


def test_a_bridge_whose_mlp_reads_another_stream_is_refused():
    """A hook that moves the input of ln2 beside the stream stands for a block of another make."""
    bridge = make_bridge()
    pairs = make_pairs(n_ctx=5, d_vocab=23, d_vocab_out=23, tokens=make_prompts)

    def double(residual, hook):
        return 2 * residual

    with (
        bridge.hooks(fwd_hooks=[("blocks.1.hook_resid_mid", double)]),
        pytest.raises(ValueError, match="resid_mid of layer 1 is not resid_pre \\+ attn_out in this bridge"),
    ):
        attribution_patching(bridge, pairs, kinds=["resid_mid"])
