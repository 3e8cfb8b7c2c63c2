"""Causal tracing: on a wired circuit by hand, against one query at a time, and its rule for edges."""

from dataclasses import replace

import pytest
import torch
from gpt2_bridge import make_bridge

from circuit_lab.measures import bridge_recovery
from circuit_lab.measures.patching.causal_tracing import (
    CHANGES,
    _edges,
    causal_tracing,
)
from circuit_lab.measures.patching.query_pairs import pair_queries
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table
from circuit_lab.tasks import concatenate


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def queries(small_task):
    return concatenate([small_task.splits[name] for name in ("train_inferred", "test_id", "test_ood")])[::2]


@pytest.fixture(scope="module")
def circuit(small_task):
    """Its facts are all in one table, read once per layer."""
    return fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)


def strong_states(traced, change):
    effects = next(e for e in traced.effects if e.change == change)
    at = traced.strong(effects).nonzero().tolist()
    return {f"{traced.sites[i]} @ {traced.position_names[j]}" for i, j in at}


def test_a_wired_circuit(circuit, queries):
    """Layer 0 reads (h, r1) into r1's state, layer 1 reads (b, r2) into r2's, and nothing else is read."""
    traced = causal_tracing(circuit, queries, queries, generator=seeded())
    assert strong_states(traced, "h") == {"embed @ h", "resid_post 0 @ r1", "resid_post 1 @ r2"}
    assert strong_states(traced, "r1") == {"embed @ r1", "resid_post 0 @ r1", "resid_post 1 @ r2"}
    assert strong_states(traced, "r2") == {"embed @ r2", "resid_post 0 @ r2", "resid_post 1 @ r2"}
    frame = traced.frame().set_index(["change", "site", "position"])
    assert set(frame["lost"]) >= {0.0, 1.0} and set(frame[frame["strong"]].loc[["h", "r1", "r2"], "lost"]) == {1.0}
    # Strong by the interval, not by the share alone.
    low = float(traced.effects[0].lost.low.max())
    assert 0.9 < low < 1.0
    assert strong_states(replace(traced, threshold=(low + 1) / 2), "h") == set()
    # The placebo: the bridge is all that r1's state hands on.
    assert frame.loc[("same_bridge", "resid_post 0", "r1"), "lost"] == 0.0
    assert frame.loc[("h", "resid_post 0", "r1"), "control"] == 0.0
    assert frame.loc[("same_bridge", "embed", "h"), "lost"] > 0.5


def test_the_circuit_of_a_wired_circuit(circuit, queries):
    edges = causal_tracing(circuit, queries, queries, generator=seeded()).circuit()
    found = {tuple(row) for row in edges.drop(columns=["from_lost", "to_lost"]).to_numpy()}
    assert found == {
        ("h", "attention", "embed", "h", "resid_post 0", "r1"),
        ("h", "attention", "resid_post 0", "r1", "resid_post 1", "r2"),
        ("r1", "residual", "embed", "r1", "resid_post 0", "r1"),
        ("r1", "attention", "resid_post 0", "r1", "resid_post 1", "r2"),
        ("r2", "residual", "embed", "r2", "resid_post 0", "r2"),
        ("r2", "residual", "resid_post 0", "r2", "resid_post 1", "r2"),
    }
    assert (edges[["from_lost", "to_lost"]] == 1.0).all().all()


def test_a_table_of_triples_reads_the_tokens(small_task):
    """One neuron per (h, r1, r2), which reads the tokens at r2's position: no state in between hands on the bridge."""
    queries = small_task.splits["train_inferred"][:150]
    triples = torch.cat([queries.tokens, queries.answer[:, None]], dim=1)
    net = triple_table(small_task.facts, triples, d_vocab=small_task.d_vocab)
    traced = causal_tracing(net, queries, queries, generator=seeded())
    edges = traced.circuit()
    to_answer = edges[(edges["to_position"] == "r2") & (edges["edge"] == "attention")]
    assert {*zip(to_answer["change"], to_answer["from_position"], strict=True)} == {("h", "h"), ("r1", "r1")}


def test_effects_against_one_query_at_a_time(small_task):
    """The released loop: both runs, one state put in, the rank of the answer before and after."""
    net = random_net(small_task)
    pool = small_task.splits["train_inferred"]
    queries = right_queries(net, pool, n=10)
    traced = causal_tracing(net, queries, pool, generator=seeded(), changes=("h", "r2"), threshold=0.2)
    generator = seeded()
    for effects in traced.effects:
        pairs = pair_queries(queries, pool, change=effects.change, generator=generator)
        lost, change = torch.zeros(4, 3), torch.zeros(4, 3)
        for clean, corrupt, answer in zip(pairs.clean.tokens, pairs.corrupt.tokens, pairs.clean.answer, strict=True):
            _, cache = net.run_with_cache(corrupt[None])
            for i in range(4):
                name = "blocks.0.hook_resid_pre" if i == 0 else f"blocks.{i - 1}.hook_resid_post"
                for j in range(3):

                    def put(state, hook, j=j, cache=cache):
                        state = state.clone()
                        state[:, j] = cache[hook.name][:, j]
                        return state

                    logits = net.run_with_hooks(clean[None], fwd_hooks=[(name, put)])[0, -1]
                    rank = int((logits >= logits[answer]).sum())
                    lost[i, j] += (rank > 1) / len(pairs)
                    change[i, j] += (1 / rank - 1) / len(pairs)
        assert effects.n == len(pairs) and effects.n_wrong == 0
        torch.testing.assert_close(effects.lost.mean, lost)
        torch.testing.assert_close(effects.reciprocal_rank.mean.float(), change)
        assert float(lost.max()) > 0.1 and 0 < float(effects.lost.low.max()) < float(effects.lost.mean.max())


def random_net(small_task, **changes):
    config = SharedTransformerConfig(
        layer_map=(0, 1, 0),
        d_model=20,
        n_heads=5,
        d_mlp=28,
        d_vocab=small_task.d_vocab,
        n_ctx=3,
        init_std=0.6,
        **changes,
    )
    return build_net(config).eval()


@torch.no_grad()
def right_queries(net, queries, n=25):
    """The same questions, with what the net answers as their answers: all right."""
    return replace(queries, answer=net(queries.tokens)[:, -1].argmax(-1))[:n]


def test_lens_against_bridge_recovery(small_task):
    net = random_net(small_task)
    queries = right_queries(net, small_task.splits["test_ood"])
    traced = causal_tracing(net, queries, queries, generator=seeded(), changes=(), batch_size=7)
    expected = bridge_recovery(net, queries).bridge_mrr[:, 1]
    torch.testing.assert_close(traced.lens_mrr.mean[0], expected, rtol=0, atol=1e-6)
    # r2 at r2, from the states themselves.
    _, cache = net.run_with_cache(queries.tokens)
    logits = net.logits_at(cache["blocks.1.hook_resid_post"][:, 2])
    order = logits.argsort(-1, descending=True)
    rank = (order == queries.tokens[:, 2:]).float().argmax(-1) + 1
    assert float(traced.lens_mrr.mean[1, 2]) == pytest.approx(float((1 / rank).mean()))
    frame = traced.lens_frame()
    assert list(frame["target"].unique()) == ["b at r1", "r2 at r2"] and set(frame["n"]) == {25}
    d = small_task.d_vocab
    assert float(frame["chance"][0]) == pytest.approx(sum(1 / k for k in range(1, d + 1)) / d)


def test_a_relation_that_is_no_output_token_has_no_rank(small_task):
    net = random_net(small_task, d_vocab_out=20)
    queries = small_task.splits["test_ood"][:9]
    assert (queries.tokens[:, 2] >= 20).all()
    traced = causal_tracing(net, queries, queries, generator=seeded(), changes=())
    assert torch.isnan(traced.lens_mrr.mean[1]).all() and not torch.isnan(traced.lens_mrr.mean[0]).any()


def test_queries_answered_wrong_are_left_out(circuit, queries):
    """Every third query gets a wrong answer; nothing else changes."""
    wrong = torch.arange(len(queries)) % 3 == 0
    answer = torch.where(wrong, (queries.answer + 1) % 20, queries.answer)
    traced = causal_tracing(circuit, replace(queries, answer=answer), queries, generator=seeded(), changes=("r2",))
    (effects,) = traced.effects
    assert effects.n_wrong > 0.2 * len(queries)
    assert effects.n + effects.n_wrong + effects.n_dropped == len(queries)
    assert strong_states(traced, "r2") == {"embed @ r2", "resid_post 0 @ r2", "resid_post 1 @ r2"}


def test_a_bridge(small_task):
    """The engine is that of activation patching, so a GPT-2 bridge will do; its answers are taken as right."""
    bridge = make_bridge(vocab_size=small_task.d_vocab, n_positions=3)
    queries = right_queries(bridge, small_task.splits["train_inferred"])
    traced = causal_tracing(bridge, queries, small_task.splits["train_inferred"], generator=seeded(), changes=("r2",))
    (effects,) = traced.effects
    assert traced.sites == ("embed", "resid_post 0", "resid_post 1", "resid_post 2")
    # In a causal model a change of r2 reaches r2's position alone, and there it is the other run.
    assert (effects.lost.mean[:, :2] == 0).all() and (effects.lost.mean[:, 2] == effects.lost.mean[0, 2]).all()
    assert float(effects.lost.mean[0, 2]) > 0.2


def test_edges_by_hand():
    """A state stays strong where it is; where another becomes strong, every strong one before it may be the reason."""
    strong = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]]).bool()
    reads = [(), (0,), (1,)]
    first = [((0, 1), (1, 1)), ((0, 0), (1, 2)), ((0, 1), (1, 2))]
    assert _edges(strong, reads, causal=True) == [*first, ((1, 2), (2, 2))]
    backwards = [((1, 1), (2, 0)), ((1, 2), (2, 0)), ((1, 2), (2, 2))]
    assert _edges(strong, reads, causal=False) == [*first, *backwards]
    # A recursive net's step reads sites before the last one, too.
    beside = [((0, 0), (2, 0)), ((0, 0), (2, 2)), ((0, 1), (2, 2))]
    assert _edges(strong, [(), (0,), (0, 1)], causal=False) == [*first, *beside, *backwards]


def test_nothing_but_the_given_generator_is_used(circuit, queries):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    one = causal_tracing(circuit, queries[:40], queries, generator=seeded())
    assert torch.equal(torch.rand(2), expected)
    two = causal_tracing(circuit, queries[:40], queries, generator=seeded(), batch_size=13)
    assert one.frame().equals(two.frame()) and tuple(e.change for e in one.effects) == CHANGES


def test_bad_input(circuit, queries, small_task):
    with pytest.raises(ValueError, match="needs two-hop queries with positions r1 and r2; got 0 with positions h, r1"):
        causal_tracing(circuit, queries[:0], queries, generator=seeded())
    with pytest.raises(ValueError, match=r"and intermediates \[\]"):
        causal_tracing(circuit, small_task.splits["atomic_id"], queries, generator=seeded())
    with pytest.raises(ValueError, match="threshold must be in \\[0, 1\\), a share of queries, got 1.5"):
        causal_tracing(circuit, queries, queries, generator=seeded(), threshold=1.5)
    with pytest.raises(ValueError, match="change must be one of h, r1, r2, same_bridge"):
        causal_tracing(circuit, queries, queries, generator=seeded(), changes=("b",))
    wrong = replace(queries, answer=(queries.answer + 1) % 20)[:40]
    with pytest.raises(ValueError, match="the model answers none of the 40 queries right"):
        causal_tracing(circuit, wrong, queries, generator=seeded(), changes=("h",))
