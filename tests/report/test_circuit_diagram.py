"""The circuit diagram: nodes never meet, it says the numbers of the exhibits, and names stay text."""

import json
from dataclasses import replace
from itertools import combinations, pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from small_nets import make_net

from circuit_lab.measures import ActivationPatching, AttentionPatterns, BridgeRecovery, LogitLens, MeanInterval, Site
from circuit_lab.measures.attribution.edges import Edge, Reader, Writer
from circuit_lab.measures.attribution.path_patching import PathPatching
from circuit_lab.measures.metrics import METRICS
from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.report.circuit.layout import Component, lay_out, passes
from circuit_lab.report.circuit.net import net_of
from circuit_lab.report.circuit.spectra import lay_out_rows
from circuit_lab.report.circuit.values import level, printed
from circuit_lab.report.circuit_diagram import circuit_panel
from circuit_lab.tasks import ModularConfig, build_task, queries_from_tokens
from circuit_lab.verdict import Diagnosis, diagnose
from circuit_lab.verdict.diagnosis import Evidence
from circuit_lab.verdict.exhibits import ModularExhibits, TwoHopExhibits, gather_exhibits

POSITIONS = ("h", "r1", "r2")
STAGES = ("embed", "resid_post 0", "resid_post 1", "resid_post 2")
HOSTILE = '"><script>alert("x")</script>'


# ------------------------------------------------------------------ geometry


def check_layout(layout):
    nodes = layout.nodes
    for one, other in combinations(nodes, 2):
        assert not one.overlaps(other), (one, other)
    for box in (*nodes, *layout.lanes):
        assert box.left >= 0 and box.top >= 0 and box.right <= layout.width and box.bottom <= layout.height, box
    for (_, lane), box in (layout.states | layout.components).items():
        held = layout.lanes[lane]
        assert held.left <= box.left and box.right <= held.right and held.top <= box.top and box.bottom <= held.bottom


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("n_layers", "n_heads"), [(n, 1 + n % 5) for n in range(1, 13)] + [(2, 12)])
def test_nodes_of_any_depth_lie_apart_and_inside(n_layers, n_heads, together):
    net = net_of(
        make_net(layer_map=tuple(range(n_layers)), n_heads=n_heads),
        positions=POSITIONS,
        stages=[],
        swept=(),
        answer_lane=2,
        heads_together=together,
    )
    layout = lay_out(net.stages, net.parts, n_lanes=3, answer_lane=2, has_brackets=True)
    check_layout(layout)
    assert len(layout.states) == 3 * (n_layers + 1)
    assert len(layout.components) == 3 * n_layers * (2 if together else n_heads + 1)
    ys = [layout.states[stage, 0].y for stage in net.stages]
    assert ys == sorted(ys, reverse=True) and layout.answer.y < ys[-1]
    for layer in range(n_layers):
        mlp = layout.components[f"mlp {layer}", 1]
        attention = layout.components[f"attn {layer}" if together else f"head {layer}.0", 1]
        assert ys[layer] > attention.y > mlp.y > ys[layer + 1]


def test_two_streams_lay_out_whatever_their_stages_are_called():
    stages = ["embed", "H0.L3", "H0.commit", "H1.L3", "H1.commit"]
    gaps = [[Component(f"{s} mixer", "mix", 0, wide=True)] for s in stages[1:-1]] + [[]]
    check_layout(lay_out(stages, gaps, n_lanes=4, answer_lane=1, has_brackets=False))


@pytest.mark.parametrize("n_strips", [(1,), (1, 2, 2, 1, 1), (1, *[2] * 24, 1, 1), (5, 1)])
def test_rows_of_spectra_lie_apart_and_inside(n_strips):
    layout = lay_out_rows(n_strips, n_lanes=3)
    tops = sorted(layout.strip_tops.values())
    assert tops[0] >= 0 and tops[-1] + 66 <= layout.height and len(tops) == sum(n_strips)
    assert all(lower - upper >= 66 for upper, lower in pairwise(tops))
    rows = sorted(layout.rows)
    assert all(lower - upper >= 76 for upper, lower in pairwise(rows))
    assert rows[0] - 38 >= 0 and rows[-1] + 38 <= layout.height - 20  # the names of the positions stand below


def test_passes_by_hand():
    def of(layer_map):
        return [(b.name, b.first, b.last) for b in passes(layer_map)]

    assert of((0, 0, 0)) == [("pass 1", 0, 0), ("pass 2", 1, 1), ("pass 3", 2, 2)]
    assert of((0, 1, 0, 1)) == [("pass 1", 0, 1), ("pass 2", 2, 3)]
    assert of((0, 0, 1, 1)) == [("pass 1", 0, 0), ("pass 2", 1, 1), ("pass 1", 2, 2), ("pass 2", 3, 3)]
    assert of((0, 1, 2)) == []


def test_numbers_and_colours_at_their_edges():
    assert [printed(x) for x in (0.125, 0.625, 0.9246, 1.0, float("nan"))] == ["0.13", "0.63", "0.92", "1.00", "–"]
    assert [level(x) for x in (0.0, 0.049, 0.05, 0.951, 1.0, None)] == ["v0", "v0", "v1", "v10", "v10", "vnone"]


# ------------------------------------------------------------------ two hops, by hand


def rate_of(split, test, stage, position):
    """A rate of its own for every cell, as hundredths: split, test, stage, position."""
    return (
        10 * ["test_id", "test_ood"].index(split)
        + 30 * ["hop1", "hop2", "interchange"].index(test)
        + 5 * ["resid_post 0", "resid_post 1"].index(stage)
        + POSITIONS.index(position)
    ) / 100


def site_effects(positions=POSITIONS, stages=("resid_post 0", "resid_post 1")):
    rows = [
        {
            "split": split,
            "test": test,
            "stage": stage,
            "position": position,
            "located": (stage, place) == ("resid_post 0", "r1"),
            "rate": (rate := rate_of(split, test, stage, place)),
            "low": rate - 0.01,
            "high": rate + 0.02,
            "n": 31,
            "n_transplants": 93,
            "control": 0.5 + rate / 10,
        }
        for split in ("test_id", "test_ood")
        for test in ("hop1", "hop2", "interchange")
        for stage in stages
        for place, position in zip(POSITIONS, positions, strict=True)
    ]
    return pd.DataFrame(rows)


def single_edges(effects, positions=POSITIONS):
    """Path patching whose effect at (edge, position) is as given: half of it above, half below, over two pairs."""
    edges = (
        Edge(Writer("embed"), Reader("attn", 0)),
        Edge(Writer("attn", 0), Reader("mlp", 0)),
        Edge(Writer("mlp", 2), Reader("logits")),
    )
    mean = torch.tensor(effects)
    values = torch.zeros(len(METRICS), 3, 3, 2)
    values[METRICS.index("logit_diff")] = 2.0 + torch.stack([0.5 * mean, 1.5 * mean], dim=-1)
    values[METRICS.index("kl")] = 99.0
    runs = torch.zeros(len(METRICS), 2)
    return PathPatching(
        edges={edge.label: (edge,) for edge in edges},
        position_names=positions,
        values=values,
        receiving=runs + 2.0,
        lending=runs + 7.0,
        direction="denoising",
        corruption="h",
    )


def attention(positions=POSITIONS):
    """Three layers of two heads: head 1.1 looks from r2 at r1, the others are uniform."""
    uniform = torch.ones(3, 3).tril() / torch.ones(3, 3).tril().sum(-1, keepdim=True)
    weight = uniform.expand(3, 2, 3, 3).clone()
    weight[1, 1, 2] = torch.tensor([0.125, 0.75, 0.125])
    interval = MeanInterval(mean=weight, low=weight - 0.0625, high=weight + 0.0625)
    entropy = torch.zeros(3, 2, 3)
    return AttentionPatterns(
        position_names=positions,
        layer_names=("0", "1", "2"),
        blocks=(0, 1, 0),
        weight=interval,
        entropy=MeanInterval(entropy, entropy, entropy),
        top_share=torch.zeros(3, 2, 3, 3),
        uniform=uniform,
        control=None,
        patterns=torch.zeros(0, 3, 2, 3, 3),
        n=40,
    )


def activation_patching(positions=POSITIONS):
    """The metric at (site s, position p) is s + p / 10 over four pairs, between 0 (receiver) and 10 (source)."""
    values = torch.zeros(len(METRICS), 4, 3, 4)
    values[METRICS.index("logit_diff")] = (torch.arange(4.0)[:, None] + torch.arange(3.0) / 10)[..., None]
    zeros = torch.zeros(len(METRICS), 4)
    return ActivationPatching(
        kind="resid",
        direction="denoising",
        corruption="r1",
        axes=("site", "position"),
        labels=(STAGES, positions),
        values=values,
        clean=zeros + 10.0,
        corrupt=zeros,
        n=4,
        n_dropped=0,
    )


def lens_reading(offset, positions=POSITIONS):
    """Bridge on top at (stage, position): offset + stage / 10 + position / 100; the answer half of it."""
    top1 = offset + torch.arange(4.0)[:, None] / 10 + torch.arange(3.0) / 100
    rest = dict.fromkeys(("bridge_mrr", "bridge_probability", "answer_mrr", "answer_probability"), top1)
    return BridgeRecovery(
        stages=STAGES,
        position_names=positions,
        bridge_top1=top1,
        answer_top1=top1 / 2,
        **rest,
        bridge_found=1.0,
        bridge_first=1.0,
        found=torch.ones(200, dtype=torch.bool),
        n=200,
        chance=0.05,
    )


def empty_lens(positions):
    cells, nothing = torch.zeros(2, 4, 3), torch.zeros(4, 3, 0)
    interval = MeanInterval(cells, cells, cells)
    return LogitLens(
        sites=STAGES,
        position_names=positions,
        targets=("bridge", "answer"),
        rank=torch.zeros(2, 4, 3, 0, dtype=torch.long),
        log_prob=torch.zeros(2, 4, 3, 0),
        entropy=nothing,
        top_tokens=torch.zeros(4, 3, 0, 5, dtype=torch.long),
        top_probabilities=torch.zeros(4, 3, 0, 5),
        top1=interval,
        mrr=interval,
        mean_log_prob=interval,
        n=0,
        chance=0.05,
    )


EFFECTS = [[4.0, 0.0, 0.0], [0.0, -2.0, 0.5], [0.0, 0.0, 1.0]]
"""Of embed -> attn 0, attn 0 -> mlp 0 and mlp 2 -> logits, at h, r1 and r2."""


def by_hand(positions=POSITIONS, *, effects=None, edges=True, found=True, held=False):
    net = make_net(layer_map=(0, 1, 0), n_heads=2)
    asked = queries_from_tokens(torch.tensor([[1, 2, 3]]), torch.tensor([4]), position_names=positions)
    accuracy = Evidence("accuracy", "test_ood", "", 0.9246, 0.88, 0.95, 199, "share", 0.02, "chance", True)
    diagnosis = Diagnosis.model_construct(
        family="two_hop",
        sites=("resid_post 0 @ r1",),
        evidence=(accuracy,),
        outcomes=(),
        measurements=SimpleNamespace(
            subject=SimpleNamespace(net=net, task=SimpleNamespace(splits={"test_id": asked, "test_ood": asked})),
            lens={"test_id": lens_reading(0.2, positions), "test_ood": lens_reading(0.1, positions)},
            located=SimpleNamespace(found=found, sites=(Site("resid_post 0", (1,), held),), position_names=positions),
        ),
    )
    exhibits = TwoHopExhibits(
        vocab=(),
        position_names=positions,
        queries=pd.DataFrame(),
        n_of_outcome={},
        lens=empty_lens(positions),
        layer_names=("0", "1", "2"),
        attended=positions,
        attention=torch.zeros(0, 3, 2, 3, 3),
        transplants=pd.DataFrame(),
        site_effects=site_effects(positions) if effects is None else effects,
        edges=single_edges(EFFECTS, positions) if edges else None,
        why_no_edges=None,
        patching={"r1": activation_patching(positions)},
        heads=attention(positions),
        geometry=None,
        seed=0,
    )
    return circuit_panel(diagnosis, exhibits)


@pytest.fixture(scope="module")
def panel():
    return by_hand()


def svg_of(panel):
    """The drawing, parsed: it is well-formed."""
    return ElementTree.fromstring(str(panel["svg"]))


def with_class(svg, name):
    return [element for element in svg.iter() if name in element.get("class", "").split()]


def test_without_exhibits_there_is_no_diagram(panel):
    del panel
    assert circuit_panel(Diagnosis.model_construct(), None) is None


def test_nodes_print_the_rates_of_hop_1_on_test_ood(panel):
    nodes = {node.get("data-id"): node for node in with_class(svg_of(panel), "node")}
    assert panel["split"] == "test_ood" and panel["data"]["tests"][0]["id"] == "hop1"
    for i, stage in enumerate(STAGES[1:3], 1):
        for j, position in enumerate(POSITIONS):
            node, rate = nodes[f"s{i}.{j}"], rate_of("test_ood", "hop1", stage, position)
            (value,) = with_class(node, "value")
            assert value.text == f"{rate:.2f}"
            assert level(rate) in node.get("class").split()
            assert ("located" in node.get("class").split()) == ((stage, position) == ("resid_post 0", "r1"))
            (bar,) = with_class(node, "bar")
            assert float(bar.get("d").split("h")[1]) == pytest.approx(52 * rate, abs=0.06)
    assert [with_class(nodes[f"s{i}.0"], "value") for i in (0, 3)] == [[], []]  # nothing is tested there
    assert with_class(nodes["answer"], "value")[0].text == "0.92"  # not 0.925 rounded again


def test_script_has_every_test_on_every_split(panel):
    effects = panel["data"]["nodes"]["s2.1"]["effects"]
    tests, splits = ("hop1", "hop2", "interchange"), ("test_id", "test_ood")
    assert panel["data"]["splits"] == list(splits) and len(effects) == 6
    for t, test in enumerate(tests):
        for s, split in enumerate(splits):
            rate = rate_of(split, test, "resid_post 1", "r1")
            expected = [rate, rate - 0.01, rate + 0.02, 0.5 + rate / 10, 31, 93]
            assert effects[2 * t + s] == pytest.approx(expected, abs=6e-4)
    assert panel["data"]["nodes"]["answer"]["accuracy"] == [None, [0.9246, 0.88, 0.95, 0.02, 199]]
    assert json.loads(json.dumps(panel["data"], allow_nan=False)) == panel["data"]


def test_readings_of_a_state(panel):
    node = panel["data"]["nodes"]["s2.1"]
    assert node["name"] == "resid_post 1 @ r1" and node["layers"] == [1]
    assert node["lens"][0] == pytest.approx([0.41, 0.205]) and node["lens"][1] == pytest.approx([0.31, 0.155])
    mean, low, high, recovered, from_, to = node["patching"][0]
    assert (mean, low, high) == (2.1, 2.1, 2.1) and (recovered, from_, to) == pytest.approx((0.21, 0.21, 0.21))
    (table,) = panel["data"]["patching"]
    assert (table["receiver"], table["source"], table["n"], table["corruption"]) == (0.0, 10.0, 4, "r1")
    assert panel["data"]["attention"]["heads"]["1.1"][2][1] == [0.75, 0.688, 0.812]
    assert panel["data"]["attention"]["uniform"][2] == pytest.approx([0.333] * 3)


def test_edges_are_the_strongest_with_their_sign(panel):
    edges = panel["data"]["edges"]
    assert [edge[2:4] for edge in edges["list"]] == [
        ["embed → attn 0 @ h", 4.0],
        ["attn 0 → mlp 0 @ r1", -2.0],
        ["mlp 2 → logits @ r2", 1.0],
        ["attn 0 → mlp 0 @ r2", 0.5],
    ]
    assert edges["list"][0][4:] == [2.0, 6.0]  # two pairs, at half and at one and a half
    assert (edges["measured"], edges["n"], edges["receiving"], edges["lending"]) == (9, 2, 2.0, 7.0)
    lines = with_class(svg_of(panel), "edge")
    assert ["negative" in line.get("class") for line in lines] == [False, True, False, False]
    widths = [float(line.get("stroke-width")) for line in lines]
    assert widths == pytest.approx([8.0, 8 * 0.5**0.5, 4.0, 8 * 0.125**0.5], abs=0.06)
    assert [edge[:2] for edge in edges["list"]] == [
        ["s0.0", "c0.0"],
        ["c0.1", "c1.1"],
        ["c5.2", "answer"],
        ["c0.2", "c1.2"],
    ]
    assert {"c0.0", "c1.1", "c5.2"} <= panel["data"]["nodes"].keys()


def test_looks_are_heads_above_uniform(panel):
    (look,) = panel["data"]["looks"]
    assert (look["layer"], look["src"], look["dest"]) == (1, "r1", "r2")
    assert look["heads"] == [["1.1", 0.75, 0.688, 0.812]] and look["uniform"] == pytest.approx(0.333)
    assert len(with_class(svg_of(panel), "look")) == 1


def test_passes_and_blocks_are_named(panel):
    words = [text.text for text in svg_of(panel).iter() if text.tag.endswith("text")]
    assert {"pass 1", "pass 2", "layer 2, block 0", "layer 1, block 1"} <= set(words)
    assert len(with_class(svg_of(panel), "bracket")) == 2


def test_summary_says_where_and_how_much(panel):
    assert panel["summary"][0] == "Located on training queries as where the bridge is handed on: resid_post 0 @ r1."
    assert "resid_post 0 @ r1, hop 1: 0.11 of 31 queries" in panel["summary"][1]
    assert "attn 0 → mlp 0 @ r1 -2.00" in panel["summary"][2]


@pytest.mark.parametrize(("found", "held"), [(True, True), (True, False), (False, True)])
def test_a_held_site_is_explained_where_it_was_located(found, held):
    how = by_hand(found=found, held=held)["how"]
    assert ("was located with its positions replaced" in how) == (found and held)


def test_hostile_names_stay_text():
    panel = by_hand((HOSTILE, "r1", "r2"))
    svg = str(panel["svg"])
    assert "<script" not in svg and panel["data"]["nodes"]["s0.0"]["name"] == f"embed @ {HOSTILE}"
    names = with_class(svg_of(panel), "lane-name")
    assert [name.text for name in names] == [HOSTILE[:11] + "…", "r1", "r2"]


def test_without_edges_the_heads_are_there():
    panel = by_hand(edges=False)
    assert panel["data"]["edges"] is None and with_class(svg_of(panel), "edge") == []
    assert panel["data"]["nodes"]["c1.0"]["name"] == "head 0.1 @ h"


def test_stages_that_the_net_does_not_declare_get_rows_of_their_own():
    effects = site_effects().assign(stage=lambda frame: frame["stage"].replace("resid_post 1", "H1.commit"))
    panel = by_hand(effects=effects)
    names = [name.text for name in with_class(svg_of(panel), "row-name")]
    assert names == [*STAGES, "H1.commit", "answer"]
    value = rate_of("test_ood", "hop1", "resid_post 1", "r2")
    nodes = {node.get("data-id"): node for node in with_class(svg_of(panel), "node")}
    assert with_class(nodes["s4.2"], "value")[0].text == f"{value:.2f}"


# ------------------------------------------------------------------ modular


@pytest.fixture(scope="module")
def modular():
    diagnosis = diagnose((cosine_network(23, frequencies=[1, 4, 9]), build_task(ModularConfig(p=23, train_share=0.4))))
    exhibits = gather_exhibits(diagnosis)
    assert isinstance(exhibits, ModularExhibits)
    return diagnosis, exhibits


SPECTRA = pd.DataFrame(
    [
        ("embedding", "1", 0.125, True, 1.0),
        ("embedding", "2", 0.875, False, 1.0),
        ("MLP 0, by a and b", "1", 0.25, True, 0.25),
        ("MLP 0, by a and b", "2", 0.75, False, 0.25),
        ("MLP 0, by result", "1", 0.7, True, 0.75),
        ("MLP 0, by result", "2", 0.3, False, 0.75),
        ("logits", "1", 1.0, True, 0.5),
        ("logits", "2", 0.0, False, 0.5),
    ],
    columns=["component", "frequency", "share", "key", "of_component"],
)


@pytest.fixture(scope="module")
def modular_panel(modular):
    diagnosis, exhibits = modular
    return circuit_panel(diagnosis, replace(exhibits, spectra=SPECTRA, key_frequencies=("1",)))


def test_modular_nodes_print_key_shares(modular_panel):
    nodes = {node.get("data-id"): node for node in with_class(svg_of(modular_panel), "node")}
    shown = {key: with_class(node, "value")[0].text for key, node in nodes.items() if with_class(node, "value")}
    assert shown == {"m0.0": "key 0.13", "m0.1": "key 0.13", "m1.2": "key 0.70", "m2.2": "key 1.00"}
    (tick,) = with_class(nodes["m1.2"], "tick")
    assert tick.get("d").startswith("M0.0 ")  # one of two frequencies is key: half way along -34..34
    titles = [title.text for title in with_class(svg_of(modular_panel), "strip-title")]
    assert titles[1] == "MLP 0, by a and b: key 0.25; 0.25 of what varies"
    assert [name.text for name in with_class(svg_of(modular_panel), "spectrum-name")] == ["1"] * 4


def test_modular_sites_print_the_evidence(modular, modular_panel):
    diagnosis, _ = modular
    split = modular_panel["split"]
    nodes = {node.get("data-id"): node for node in with_class(svg_of(modular_panel), "node")}
    for site, node in (("inputs", "m0.0"), ("inputs", "m0.1"), ("answer", "m2.2")):
        rows = {row.name: row for row in diagnosis.evidence if row.site.startswith(site) and row.split == split}
        without, only = rows["right without key frequencies"], rows["right with key frequencies only"]
        lines = [line.text for line in with_class(nodes[node], "ablated")]
        assert lines == [f"without {printed(without.value)}", f"only {printed(only.value)}"]
        cell = modular_panel["data"]["ablations"][site][modular_panel["data"]["splits"].index(split)]
        assert cell[3] == pytest.approx(without.control, abs=1e-3) and cell[4] == without.n and cell[9] == without.site
    assert with_class(nodes["m1.2"], "ablated") == []


def test_attention_is_explained_where_it_is_drawn(modular):
    diagnosis, exhibits = modular
    without = replace(exhibits, attention=None)
    elsewhere = replace(exhibits, attended=("prefix", *exhibits.position_names))
    for shown, is_drawn in ((exhibits, True), (without, False), (elsewhere, False)):
        panel = circuit_panel(diagnosis, shown)
        assert bool(with_class(svg_of(panel), "look")) == is_drawn
        assert ("attention is the mean" in panel["how"]) == is_drawn
        assert ("look" in {entry["mark"] for entry in panel["legend"]}) == is_drawn


def test_bars_are_drawn_to_one_scale(modular_panel):
    bars = [path.get("d") for path in with_class(svg_of(modular_panel), "spectrum-key")]
    heights = [float(bar.split("v-")[1]) for bar in bars]
    assert heights == pytest.approx([34 * share for share in (0.125, 0.25, 0.7, 1.0)], abs=0.06)


def test_modular_data_is_json_and_small(modular):
    diagnosis, exhibits = modular
    panel = circuit_panel(diagnosis, exhibits)
    assert len(json.dumps(panel["data"], allow_nan=False)) + len(panel["svg"]) < 30_000
    assert [spectrum["name"] for spectrum in panel["data"]["spectra"]] == list(
        dict.fromkeys(exhibits.spectra["component"])
    )
