"""The report of a recursive net: both streams, steps by name, and what is not defined for it said and left out."""

import base64
import json
import re
import zlib
from html import unescape
from xml.etree import ElementTree

import pytest
import torch
from recursive_nets import MLP, make_recursive_net
from small_runs import TWO_HOP, train_run

from circuit_lab.measures import activation_patching, attention_patterns, attribution_patching, pair_queries
from circuit_lab.report import write_report
from circuit_lab.report.circuit.layout import lay_out
from circuit_lab.report.circuit.net import net_of
from circuit_lab.report.circuit.streams import stream_paths
from circuit_lab.report.figures import activation_patching_figure, attention_figure, node_attribution_figure
from circuit_lab.verdict import compare, diagnose, diagnose_run

STAGES = ["embed", "H0.L0", "H0.commit", "H1.L0", "H1.commit"]
RECURSIVE = TWO_HOP | {
    "net": {"kind": "recursive_transformer", "n_blocks": 1, "h_cycles": 2, "l_cycles": 1, "d_model": 12, "n_heads": 3},
    "training": {"n_steps": 2, "batch_size": 16},
    "evaluation": {"every": 2},
    "checkpoints": {"every": 2},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_run(RECURSIVE, tmp_path_factory.mktemp("recursive") / "run")


@pytest.fixture(scope="module")
def of_checkpoint(run, tmp_path_factory):
    diagnosis = diagnose(run, max_queries_per_split=60)
    return diagnosis, page_of([diagnosis], tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def of_position_mlp(small_task, tmp_path_factory):
    """A net with a prefix and without attention, in memory."""
    net = make_recursive_net(
        n_ctx=3, l_cycles=1, n_blocks=2, d_vocab=small_task.d_vocab, d_vocab_out=small_task.d_vocab, **MLP
    )
    diagnosis = diagnose((net, small_task), max_queries_per_split=60)
    return diagnosis, page_of([diagnosis], tmp_path_factory.mktemp("page"))


def net_for(task, **changes):
    return make_recursive_net(n_ctx=3, l_cycles=1, d_vocab=task.d_vocab, d_vocab_out=task.d_vocab, **changes)


def page_of(items, folder):
    return write_report(items, folder / "page.html", link_scripts=True).read_text(encoding="utf-8")


def data_of(page):
    block = re.search(r'<script type="application/json" id="c1-data">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    data = json.loads(zlib.decompress(base64.b64decode(json.loads(block[1])["deflated"])))
    head = json.loads(zlib.decompress(base64.b64decode(data["explorer"]["head"])))
    return data, head


def svg_of(page):
    drawing = re.search(r'<svg class="circuit-svg".*?</svg>', page, re.DOTALL)
    assert drawing is not None
    return ElementTree.fromstring(drawing[0])


def texts(svg, name):
    return [element.text for element in svg.iter() if element.get("class") == name]


def place(svg, data, name):
    """Where a node stands, by its name."""
    (node_id,) = (key for key, node in data["circuit"]["nodes"].items() if node["name"] == name)
    (node,) = (element for element in svg.iter() if element.get("data-id") == node_id)
    x, y = re.findall(r"[\d.]+", node.get("transform"))
    return float(x), float(y)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["of_checkpoint", "of_position_mlp"])
def test_the_diagram_has_both_streams_side_by_side(case, request):
    _, page = request.getfixturevalue(case)
    svg, (data, _) = svg_of(page), data_of(page)
    assert texts(svg, "row-name") == [*STAGES, "answer"]
    assert texts(svg, "bracket-name") == ["cycle H0", "cycle H1"]
    assert texts(svg, "stream-name") == ["z_L", "z_H"] * 3
    at = {stage: place(svg, data, f"{stage} @ r1") for stage in STAGES}
    z_L, z_H = at["H0.L0"][0], at["H0.commit"][0]
    assert z_L < at["embed"][0] < z_H
    assert (at["H1.L0"][0], at["H1.commit"][0]) == (z_L, z_H)
    heights = [at[stage][1] for stage in STAGES]
    assert heights == sorted(heights, reverse=True)
    # h, r1 and r2 alike: x to both inner steps, z_L to both commits and the next inner step, z_H to two; to the answer.
    reads = [element for element in svg.iter() if element.get("class") == "read"]
    assert len(reads) == 3 * (2 + 2 + 1 + 2) + 1
    assert not [element for element in svg.iter() if "edge" in (element.get("class") or "").split()]
    assert "There are no edges between components: edges need a stream that is the sum" in unescape(page)


@pytest.mark.slow
def test_the_explorer_and_figures_name_the_steps(of_checkpoint):
    diagnosis, page = of_checkpoint
    data, explorer = data_of(page)
    assert explorer["lens"]["sites"] == STAGES
    assert explorer["attention"]["layers"] == STAGES[1:] and explorer["attention"]["positions"] == ["h", "r1", "r2"]
    assert {"attention", "bridge-lens-test-ood"} <= data["figures"].keys()
    assert not any(name.startswith("edges") for name in data["figures"])
    assert str(diagnosis.source) in page


@pytest.mark.slow
def test_a_net_without_attention_has_none_in_its_report(of_position_mlp):
    _, page = of_position_mlp
    data, explorer = data_of(page)
    assert explorer["attention"] is None and data["circuit"]["attention"] is None
    assert "attention" not in data["figures"] and data["circuit"]["looks"] == []
    assert {"mix", "MLP"} <= {text.text for text in svg_of(page).iter() if text.text}
    assert explorer["lens"]["sites"] == STAGES


@pytest.mark.slow
def test_two_recursive_checkpoints_are_compared(run):
    comparison = compare(run, run, max_queries_per_split=40)
    assert comparison.same_path == "yes" and "same weights" in comparison.reasons[0]


@pytest.mark.slow
def test_the_page_of_a_run(run, tmp_path):
    page = write_report([diagnose_run(run)], tmp_path / "run.html", link_scripts=True).read_text(encoding="utf-8")
    assert 'id="r1"' in page and "untrained" in page


def test_streams_of_the_diagram():
    """Worked out from the places of the nodes: what a step reads in its own column, from the other, and once more."""
    net = net_of(
        make_recursive_net(n_ctx=3, n_blocks=1, l_cycles=2, h_cycles=1),
        positions=("h", "r2"),
        stages=[],
        swept=(),
        answer_lane=1,
        heads_together=True,
    )
    assert net.stages == ("embed", "H0.L0", "H0.L1", "H0.commit") and net.columns == (0.5, 0, 0, 1)
    assert [[part.name for part in gap] for gap in net.parts] == [[f"attn {i}", f"mlp {i}"] for i in range(3)]
    assert [(b.name, b.first, b.last) for b in net.brackets] == [("cycle H0", 0, 2)]
    layout = lay_out(net.stages, net.parts, n_lanes=2, answer_lane=1, has_brackets=True, columns=net.columns)
    box = {stage: layout.states[stage, 0] for stage in net.stages}
    assert box["embed"].x - box["H0.L0"].x == box["H0.commit"].x - box["embed"].x == (66 + 18) / 2
    assert layout.answer.x == layout.states["H0.commit", 1].x
    nodes = [*layout.states.values(), *layout.components.values(), layout.answer]
    assert not any(a.overlaps(b) for i, a in enumerate(nodes) for b in nodes[:i])
    paths = stream_paths(net, layout)
    assert len(paths) == 2 * 4 + 1
    input_to_first, *to_second, to_commit = paths[:4]
    assert input_to_first == line_between(box["embed"], box["H0.L0"])
    assert to_commit == line_between(box["H0.L1"], box["H0.commit"])
    again, along = to_second
    assert along == line_between(box["H0.L0"], box["H0.L1"])
    # What reads the input once more goes up between the columns, past the state in between.
    (rail,) = re.findall(r"L(\d+) \d+V", again)
    assert box["H0.L0"].right < float(rail) < box["H0.commit"].left
    assert paths[-1].startswith(f"M{layout.answer.x:.0f} ")


def line_between(below, above):
    return f"M{below.x:.0f} {below.top:.0f}L{above.x:.0f} {above.bottom:.0f}"


def test_figures_of_measures(small_task):
    net = make_recursive_net(
        n_ctx=3, l_cycles=1, n_blocks=1, d_vocab=small_task.d_vocab, d_vocab_out=small_task.d_vocab
    )
    queries = small_task.splits["train_inferred"][:12]
    pairs = pair_queries(queries, small_task.splits["train_inferred"], change="r1", generator=torch.Generator())
    figure = activation_patching_figure(activation_patching(net, pairs, kind="resid"), metric="logit_diff", show="mean")
    assert list(figure.data[0].y) == STAGES
    titles = [note.text for note in attention_figure(attention_patterns(net, queries), split="x").layout.annotations]
    assert titles[0] == "H0.L0 head 0" and titles[-1] == "H1.commit head 2"
    nodes = attribution_patching(net, pairs, kinds=["resid", "z"])
    assert list(node_attribution_figure(nodes, kind="resid").data[0].y) == STAGES
    by_head = node_attribution_figure(nodes, kind="z").data[0]
    assert list(by_head.y)[:2] == ["z H0.L0", "z H0.commit"] and list(by_head.x)[:2] == ["0 @ h", "1 @ h"]
