"""The circuit of a two-hop net: transplant rates at the states of the stream, path-patching effects between components.

1. A *state node* per stage and position (in a recursive net in two columns, one for each stream): the rates of the
   three causal tests there (`exhibits.site_effects`), what the lens reads there, activation patching. The embedding and
   the last stage have no transplants.
2. *Component nodes* at each position: the heads and MLPs of the layers between two stages.
3. An *edge* is what a writer adds to the input of a reader at that position, through the stream alone; its width is the
   effect of patching it. The strongest `MAX_EDGES` are in the page, and fewer are shown at first. None in a recursive
   net; thin lines show which states each of its steps reads.
4. A *look* is where heads attend another position more than a uniform head would: a reading, no causal evidence; it
   shows by which way an effect may change position.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from circuit_lab.measures import Site
from circuit_lab.report.circuit.edges import Effect, Line, edge_lines, edge_table, look_lines, looks, strongest_edges
from circuit_lab.report.circuit.layout import Component, Layout, lay_out
from circuit_lab.report.circuit.net import Net, Node, net_of
from circuit_lab.report.circuit.states import (
    Cells,
    accuracies,
    answer_node,
    attention_table,
    effect_cells,
    lens_table,
    patching_table,
    state_node,
    state_readings,
)
from circuit_lab.report.circuit.streams import stream_names, stream_paths
from circuit_lab.report.circuit.values import printed
from circuit_lab.verdict import Diagnosis
from circuit_lab.verdict.exhibits import TwoHopExhibits
from circuit_lab.verdict.two_hop.evidence import CONTROL_MEANS

TESTS = {
    "hop1": (
        "hop 1",
        "each query's state here, put into a query with another first hop; counted if that query then answers from "
        "this bridge",
    ),
    "hop2": (
        "hop 2",
        "the state here of another query with the same bridge, put into each query; counted if its right answer is "
        "given",
    ),
    "interchange": (
        "interchange",
        "the state here of a query with another bridge, put into each query; counted if the answer follows that bridge",
    ),
}
"""Label of each test, and what is done."""
LEGEND = (
    {"mark": "ring", "words": "a site where the bridge was located, on training queries"},
    {"mark": "bar", "words": "bar: the share; tick: its control"},
    {"mark": "edge", "words": "edge that raises the answer's logit"},
    {"mark": "edge negative", "words": "edge that lowers it"},
    {"mark": "look", "words": "attention above uniform (a reading)"},
)
_FIRST_SPLITS = ("test_ood", "test_id")


def two_hop_circuit(diagnosis: Diagnosis, exhibits: TwoHopExhibits) -> dict[str, Any]:
    """Everything that the templates and the page's script need.

    Args:
        diagnosis: A diagnosis that still holds its measurements.
        exhibits: What was measured for the report.

    Returns:
        `data` for the script, JSON-able; everything else for the templates.
    """
    effects = exhibits.site_effects
    splits = _splits(diagnosis, effects)
    split = next((name for name in _FIRST_SPLITS if name in splits), splits[0])
    net = _net(diagnosis, exhibits, split)
    layout = lay_out(
        net.stages,
        net.parts,
        n_lanes=len(net.lanes),
        answer_lane=net.answer_lane,
        has_brackets=bool(net.brackets),
        columns=net.columns,
    )
    cells, of_answer = effect_cells(effects, list(TESTS), splits), accuracies(diagnosis, splits)
    located = _located_states(diagnosis)
    strongest, found_looks = strongest_edges(exhibits.edges), looks(exhibits.heads, net)
    at_first, lines = splits.index(split), edge_lines(strongest, layout, net)
    nodes, details = [answer_node(layout, of_answer[at_first])], {}
    details["answer"] = {"kind": "answer", "name": "the answer", "accuracy": of_answer}
    for stage, lane in layout.states:
        site = stage, net.lanes[lane]
        if site[1] in net.positions or stage == net.stages[0]:  # the lane of all positions has no states
            node = state_node(
                net, layout, stage, lane, cells=cells.get(site), at_first=at_first, located=site in located
            )
            nodes.append(node)
            details[node.id] = _state_details(node, net, stage, lane, cells.get(site), diagnosis, exhibits)
    for component, lane in ((part, lane) for part in net.components for lane in range(len(net.lanes))):
        node = _component_node(component, lane, net, layout)
        nodes.append(node)
        details[node.id] = _component_details(node, component, lane)
    return {
        "kind": "two_hop",
        "net": net,
        "layout": layout,
        "streams": stream_paths(net, layout),
        "stream_names": stream_names(net, layout),
        "nodes": nodes,
        "edges": lines,
        "looks": look_lines(found_looks, layout, net),
        "n_edges_shown": sum(line.shown for line in lines),
        "tests": [{"id": test, "label": label} for test, (label, _) in TESTS.items()],
        "splits": splits,
        "split": split,
        "summary": _summary(diagnosis, effects, strongest, split),
        "scale": "share of queries, as printed in each node",
        "legend": _legend(lines, found_looks),
        "how": _how(diagnosis, net, effects, exhibits, split),
        "data": {
            "kind": "two_hop",
            "tests": [
                {"id": test, "label": label, "done": done, "control": CONTROL_MEANS[test]}
                for test, (label, done) in TESTS.items()
            ],
            "splits": splits,
            "split": split,
            "nodes": details,
            "lens": lens_table(diagnosis.measurements.lens),
            "attention": _attention(exhibits),
            "patching": patching_table(exhibits.patching),
            "edges": edge_table(exhibits.edges, strongest, net),
            "looks": found_looks,
        },
    }


def _located_states(diagnosis: Diagnosis) -> set[tuple[str, str]]:
    """(stage, position) of every state at which, alone or together with others, the bridge was located."""
    located = diagnosis.measurements.located
    sites = [site for site in located.sites if isinstance(site, Site)] if located.found else []
    return {(site.stage, located.position_names[position]) for site in sites for position in site.positions}


def _net(diagnosis: Diagnosis, exhibits: TwoHopExhibits, split: str) -> Net:
    subject, edges = diagnosis.measurements.subject, exhibits.edges
    return net_of(
        subject.net,
        positions=exhibits.position_names,
        stages=list(exhibits.site_effects["stage"]),
        swept=() if edges is None else edges.position_names,
        answer_lane=int(subject.task.splits[split].answer_position[0]),
        heads_together=exhibits.why_no_edges is not None
        or (edges is not None and any("attn" in name for name in edges.edges)),
    )


def _splits(diagnosis: Diagnosis, effects: pd.DataFrame) -> list[str]:
    """The splits with transplants; of a net of one layer, which has none, those of the diagnosis."""
    return list(dict.fromkeys(effects["split"])) or [outcomes.split for outcomes in diagnosis.outcomes]


def _attention(exhibits: TwoHopExhibits) -> dict[str, Any] | None:
    heads = exhibits.heads
    return None if heads is None else attention_table(heads.weight, heads.uniform, heads.position_names, heads.n)


def _legend(lines: Sequence[Line], found_looks: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The marks that there are."""
    absent = {"edge", "edge negative"} if not lines else set()
    absent |= set() if found_looks else {"look"}
    return [entry for entry in LEGEND if entry["mark"] not in absent]


def _how(diagnosis: Diagnosis, net: Net, effects: pd.DataFrame, exhibits: TwoHopExhibits, split: str) -> str:
    """What is drawn, and of how many queries."""
    n, edges = effects.loc[effects["split"] == split, "n"], exhibits.edges
    words = "Tokens stand side by side, and the residual stream of each runs upwards, from its embedding on. "
    if net.has_two_streams:
        words = (
            "Tokens stand side by side, each with two streams that run upwards: z_L (left), which the inner steps "
            "H0.L0, H0.L1, ... rewrite, and z_H (right), which the commits rewrite and the answer is read from. Thin "
            "lines lead from what a step reads to what it writes; every inner step reads the input again. "
        )
    if len(n):
        many = f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
        words += f"Numbers in the nodes come from {many} queries of a split, in the answer from all that were read. "
    if exhibits.why_no_edges is not None:
        words += f"There are no edges between components: {exhibits.why_no_edges}. "
    if edges is not None:
        words += (
            f"Edges are path patching ({edges.direction}) between {edges.values.shape[-1]} pairs of queries that "
            f"differ in {edges.corruption}; they run upwards, and their width grows with the change of the logit "
            f"difference (as its square root). "
        )
    located = diagnosis.measurements.located
    if located.found and any(isinstance(site, Site) and site.held for site in located.sites):
        words += (
            "A ringed site “on” was located with its positions replaced at every later stage, too; the numbers in the "
            "nodes are of transplants at one stage. "
        )
    return words + "Point at anything for its number, interval, control and n; click a node for all there is on it."


def _state_details(
    node: Node,
    net: Net,
    stage: str,
    lane: int,
    cells: Cells | None,
    diagnosis: Diagnosis,
    exhibits: TwoHopExhibits,
) -> dict[str, Any]:
    number = net.stages.index(stage)
    found: dict[str, Any] = {"kind": "state", "name": node.name, "position": lane}
    found["layers"] = list(net.layers[number - 1]) if number else []
    found |= {"located": 1} if node.located else {}
    found |= {"effects": cells} if cells is not None else {}
    return found | state_readings(stage, net.lanes[lane], diagnosis.measurements.lens, exhibits.patching)


def _component_node(component: Component, lane: int, net: Net, layout: Layout) -> Node:
    return Node(
        id=net.component_id(component.name, lane),
        kind="mlp" if component.wide else "head",
        name=f"{component.name} @ {net.lanes[lane]}",
        box=layout.components[component.name, lane],
        text=component.text,
    )


def _component_details(node: Node, component: Component, lane: int) -> dict[str, Any]:
    kind, _, of = component.name.partition(" ")
    found: dict[str, Any] = {"kind": kind, "name": node.name, "position": lane}
    if kind == "head":
        return found | {"heads": [of]}
    return found | {"layers": [int(of)]} if kind == "attn" else found


def _summary(diagnosis: Diagnosis, effects: pd.DataFrame, strongest: Sequence[Effect], split: str) -> list[str]:
    """The picture in words, for those who cannot see it."""
    ringed = effects.loc[(effects["split"] == split) & effects["located"]].to_dict(orient="records")
    rates = [
        f"{row['stage']} @ {row['position']}, {TESTS[row['test']][0]}: {printed(row['rate'])} of {row['n']} queries"
        for row in ringed
    ]
    where = " and ".join(diagnosis.sites)
    lines = [
        f"Located on training queries as where the bridge is handed on: {where}."
        if where
        else "No site was found at which a bridge is handed on."
    ]
    lines += [f"Transplants at the ringed sites, {split}: {'; '.join(rates)}."] if rates else []
    if strongest:
        named = "; ".join(f"{effect.name} {effect.mean:+.2f}" for effect in strongest[:5])
        lines.append(f"The edges that matter most, in logits: {named}.")
    return lines
