"""Exhibits of two-hop nets: single transplants, maps over sites and edges are what the net does."""

import dataclasses

import pandas as pd
import pytest
import torch

from circuit_lab.measures import METRICS
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.exhibits import gather_exhibits
from circuit_lab.verdict.exhibits.gather_two_hop import MAX_SHOWN, N_PARTNERS, gather_two_hop


def untrained(task, **changes):
    """Three layers of random weights, whose answers differ with every patch."""
    sizes = {"layer_map": (0, 1, 0), "d_model": 12, "n_heads": 3, "d_head": 5, "d_mlp": 20, "n_ctx": 3}
    config = SharedTransformerConfig(**sizes | {"d_vocab": task.d_vocab, "d_vocab_out": task.d_vocab} | changes)
    net = build_net(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) + name.endswith(".w"))
    return net


NETS = {
    "wired": lambda task: fact_table_read_twice(task.facts, d_vocab=task.d_vocab),
    "untrained": untrained,
}


@pytest.fixture(scope="module")
def diagnosed(small_task):
    return {name: diagnose((make(small_task), small_task), seed=3) for name, make in NETS.items()}


@pytest.fixture(scope="module")
def exhibits(diagnosed):
    return {name: gather_exhibits(diagnosis) for name, diagnosis in diagnosed.items()}


def rates(found, test, position):
    here = found.site_effects.query("test == @test and position == @position")
    assert set(here["split"]) == {"train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood"}
    return sorted(set(here["rate"]))


def test_site_effects_of_a_wired_circuit_by_hand(exhibits):
    # The stream after the first layer holds the bridge at r1 and nothing that is read at h; at r2, r2 itself.
    found = exhibits["wired"]
    assert set(found.site_effects["stage"]) == {"resid_post 0"}
    assert [rates(found, test, "r1") for test in ("hop1", "hop2", "interchange")] == [[1.0]] * 3
    assert rates(found, "hop1", "h") == rates(found, "interchange", "h") == [0.0]
    assert rates(found, "hop2", "h") == [1.0]  # a patch that does nothing leaves the right answer ...
    unread = found.site_effects.query("test == 'hop2' and position == 'h'")
    assert set(unread["control"]) == {1.0}  # ... and so does one with another bridge
    assert rates(found, "hop2", "r2") == [0.0]  # the source's r2 asks for another tail of the same bridge
    assert max(rates(found, "hop1", "r2") + rates(found, "interchange", "r2")) < 0.1  # two tails may be one by chance
    assert set(found.site_effects.query("located")["position"]) == {"r1"}


def test_site_effects_count_queries_and_have_wilson_intervals(exhibits):
    frame = exhibits["wired"].site_effects
    row = frame.query("split == 'test_ood' and test == 'interchange' and position == 'r1'").iloc[0]
    assert (row["n"], row["n_transplants"]) == (32, 96)
    assert row["low"] == pytest.approx(32 / (32 + 1.959964**2)) and row["high"] == 1.0
    of_splits = frame.query("test == 'hop2' and position == 'r1'")["n_transplants"]
    assert len(of_splits) == 5 and of_splits.nunique() > 1  # each split's own queries, some of which lack partners
    passed = frame["rate"] * frame["n"]
    assert ((passed - passed.round()).abs() < 1e-9).all() and frame["n"].max() == 32


def test_nothing_is_handed_on_by_an_untrained_net(exhibits):
    frame = exhibits["untrained"].site_effects
    assert frame["n"].min() > 5 and frame.query("test != 'hop2'")["rate"].max() < 0.2
    assert not frame["located"].any()


@pytest.mark.parametrize("name", NETS)
def test_single_transplants_are_what_plain_hooks_give(diagnosed, exhibits, name):
    net, transplants = diagnosed[name].measurements.subject.net.eval(), exhibits[name].transplants
    assert len(transplants) > 200 and set(transplants["test"]) == {"hop1", "hop2", "interchange"}
    for label, rows in transplants.groupby("site"):
        stage, position = label.split(" @ ")
        hook, columns = f"blocks.{stage[-1]}.hook_resid_post", [("h", "r1", "r2").index(p) for p in position.split("+")]
        kept = {}

        def keep(state, hook, kept=kept):
            kept["state"] = state.clone()

        def put(state, hook, kept=kept, columns=columns):
            state = state.clone()
            state[:, columns] = kept["state"][:, columns]
            return state

        with torch.no_grad():
            net.run_with_hooks(torch.tensor(rows["source"].tolist()), fwd_hooks=[(hook, keep)])
            logits = net.run_with_hooks(torch.tensor(rows["receiver"].tolist()), fwd_hooks=[(hook, put)])
        assert logits[:, 2].argmax(-1).tolist() == rows["answered"].tolist()
    if name == "untrained":
        assert transplants["answered"].nunique() > 3 and not transplants["passed"].all()


def test_what_a_transplant_wants_follows_from_the_facts(small_task, exhibits):
    tail = {(h, r): t for h, r, t in small_task.facts.tolist()}
    found = exhibits["wired"]
    for row in found.transplants.to_dict("records"):
        (h, r1, _), (own_h, own_r1, r2) = row["source"], row["receiver"]
        bridge, own_bridge = tail[h, r1], tail[own_h, own_r1]
        assert row["wanted"] == tail[bridge, r2] and row["passed"] == (row["answered"] == row["wanted"])
        assert (bridge == own_bridge) == (row["test"] == "hop2") and (h, r1) != (own_h, own_r1)
        query = tuple(found.queries.loc[row["query"], ["h", "r1", "r2"]])
        assert query == row["source" if row["test"] == "hop1" else "receiver"]
    assert found.transplants.groupby(["query", "test", "site"]).size().max() == N_PARTNERS
    assert found.transplants["passed"].all()


@pytest.mark.parametrize("name", NETS)
def test_queries_shown_are_rows_of_the_diagnosis(diagnosed, exhibits, name):
    read, found = diagnosed[name].measurements.queries, exhibits[name]
    for row in found.queries.to_dict("records"):
        there = read[row["split"]].iloc[row["row"]]
        assert {column: there[column] for column in row if column not in ("split", "row")} == {
            column: value for column, value in row.items() if column not in ("split", "row")
        }
    shown = found.queries.groupby(["split", "outcome"]).size().to_dict()
    assert shown == {cell: min(n, 6) for cell, n in found.n_of_outcome.items()}
    assert not found.queries.duplicated(["split", "row"]).any()
    for split, frame in read.items():
        assert sum(n for (of, _), n in found.n_of_outcome.items() if of == split) == len(frame)


def test_lens_and_attention_are_of_the_shown_queries(diagnosed, exhibits):
    net, found = diagnosed["untrained"].measurements.subject.net.eval(), exhibits["untrained"]
    assert found.lens.top_tokens[-1, 2, :, 0].tolist() == found.queries["predicted"].tolist()
    assert found.lens.targets == ("bridge", "answer") and found.lens.top_tokens.shape[-1] == 5
    _, cache = net.run_with_cache(torch.tensor(found.queries[["h", "r1", "r2"]].to_numpy()))
    for layer in range(3):
        torch.testing.assert_close(found.attention[:, layer], cache[f"blocks.{layer}.attn.hook_pattern"])
    assert found.heads.n == len(diagnosed["untrained"].measurements.queries["test_id"]) == 84


def test_edges_and_patches_of_a_wired_circuit_by_hand(exhibits):
    found = exhibits["wired"]
    frame = found.edges.frame().query("metric == 'logit_diff'").set_index(["edges", "position"])["recovered"]
    path = [
        ("embed -> attn 0", "h"),
        ("attn 0 -> mlp 0", "r1"),
        ("mlp 0 -> attn 1", "r1"),
        ("attn 1 -> mlp 1", "r2"),
        ("mlp 1 -> logits", "r2"),
    ]
    assert frame[path].tolist() == pytest.approx([1.0] * 5)
    assert frame.drop(path).abs().max() == 0.0
    recovered = found.patching["h"].recovered("logit_diff").mean
    assert found.patching["h"].labels == (("embed", "resid_post 0", "resid_post 1"), ("h", "r1", "r2"))
    torch.testing.assert_close(recovered, torch.eye(3))
    torch.testing.assert_close(found.patching["r2"].recovered("logit_diff").mean[:, 2], torch.ones(3))


def test_pairs_are_answered_right_and_few_pairs_are_not_shown(exhibits):
    for result in exhibits["wired"].patching.values():
        assert (result.clean[METRICS.index("logit_diff")] > 0).all()
    assert exhibits["untrained"].edges is None and exhibits["untrained"].patching == {}


def test_geometry_compares_states_with_one_bridge(exhibits):
    frame = exhibits["wired"].geometry.frame()
    at_r1 = frame.query("states == 'centred' and stage == 'resid_post 0' and position == 'r1' and split_a != split_b")
    cosine = at_r1.set_index("pairs")["cosine"]
    assert cosine["within"] > 0.5 and abs(cosine["shuffled"]) < 0.2


def test_exhibits_are_those_of_the_seed_and_leave_the_global_state(diagnosed, exhibits):
    diagnosis, found = diagnosed["untrained"], exhibits["untrained"]
    before = torch.get_rng_state()
    again = gather_exhibits(diagnosis)
    assert torch.equal(before, torch.get_rng_state())
    for name in ("queries", "transplants", "site_effects"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(again, name))
    assert torch.equal(found.lens.log_prob, again.lens.log_prob)
    other = gather_exhibits(diagnosis.model_copy(update={"seed": 4}))
    assert not found.queries["row"].equals(other.queries["row"]) and other.seed == 4


def test_more_queries_than_fit_are_shown_in_equal_numbers(diagnosed):
    diagnosis = diagnosed["wired"]
    subject = diagnosis.measurements.subject
    found = gather_two_hop(subject, diagnosis, max_per_outcome=10_000)
    shown = found.queries.groupby(["split", "outcome"]).size().to_dict()
    (most,) = {n for cell, n in shown.items() if n < found.n_of_outcome[cell]}
    assert MAX_SHOWN - len(shown) < sum(shown.values()) <= MAX_SHOWN and max(shown.values()) == most
    with pytest.raises(ValueError, match="max_per_outcome must be at least 1, got 0"):
        gather_two_hop(subject, diagnosis, max_per_outcome=0)


def test_a_net_of_one_layer_has_no_inner_stage(small_task):
    diagnosis = diagnose((untrained(small_task, layer_map=(0,)), small_task), n_partners=3)
    found = gather_exhibits(diagnosis)
    assert len(found.site_effects) == 0 and {"split", "test", "stage", "position", "rate"} <= set(found.site_effects)
    assert set(found.transplants["site"]) == {s.label(("h", "r1", "r2")) for s in diagnosis.measurements.located.sites}
    assert found.edges is None and found.lens.sites == ("embed", "resid_post 0")


@pytest.mark.parametrize("changes", [{"attention_dir": "bidirectional"}, {"norm_position": "post"}], ids=str)
def test_any_net_of_ours_has_exhibits(diagnosed, changes):
    diagnosis = diagnosed["wired"]
    measured = diagnosis.measurements
    subject = dataclasses.replace(measured.subject, net=untrained(measured.subject.task, **changes).eval())
    found = gather_two_hop(subject, diagnosis, max_per_outcome=1)
    assert len(found.site_effects.drop_duplicates(["stage", "position"])) == 2 * 3
    assert list(found.patching) == ["h", "r1", "r2"]
    assert (found.edges is None) == (changes == {"norm_position": "post"})
    torch.testing.assert_close(found.attention.sum(-1), torch.ones(found.attention.shape[:-1]))
    sees_ahead = found.attention.triu(1).amax() > 0
    assert sees_ahead == (changes == {"attention_dir": "bidirectional"})


@pytest.mark.slow
def test_exhibits_of_a_trained_circuit_agree_with_its_diagnosis():
    diagnosis = diagnose("two-hop-true-circuit")
    found = gather_exhibits(diagnosis)
    located = found.site_effects.query("located and split == 'test_ood'")
    assert len(located) == 2 * 3
    for row in located.to_dict("records"):
        full = diagnosis.number(row["test"], "test_ood", f"{row['stage']} @ {row['position']}")
        # Two samples of the same share: their 95 % intervals meet.
        assert row["low"] <= full.high and full.low <= row["high"]
    passed = found.transplants.groupby(["query", "test", "site"])["passed"].mean()
    hop1 = (passed > 0.5).groupby(["query", "test"]).any().unstack()["hop1"]
    outcome = found.queries["outcome"]
    # Other partners than the diagnosis drew, and three instead of six.
    assert hop1[outcome == "circuit"].mean() > 0.9 and hop1[outcome == "first_hop_failure"].mean() < 0.5
    assert found.patching["h"].recovered("logit_diff").mean[1, 1] > 0.8  # resid_post 0 @ r1
    assert found.edges.values.shape[1:] == (45, 3, 48)
