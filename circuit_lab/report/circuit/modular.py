"""The circuit of a modular net: the components from the embedding to the logits, each with its frequency spectrum.

1. A *row* per component, bottom to top in the order of `exhibits.spectra`: the embedding at every position, whatever
   else writes at the answer's position, the unembedding, the logits. A component may have several spectra, one per
   function of it ("attention 0, by a and b").
2. A component's node shows the share of the key frequencies in the spectrum that holds most of the component. The
   control is a spectrum with equal energy in every frequency.
3. The nodes at the ablation's sites also show the answers that are right without the key frequencies, and with nothing
   else, from the evidence.
4. A *look* is the mean attention from the answer's position, over the pairs shown: a reading, no causal evidence. There
   is none without attention, or where attention sees positions that have no lane, such as a prefix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from circuit_lab.measures import ANSWER, INPUTS, MeanInterval, mean_interval
from circuit_lab.measures.model_facts import is_causal
from circuit_lab.report.circuit.layout import Box
from circuit_lab.report.circuit.spectra import (
    NODE_HEIGHT,
    NODE_WIDTH,
    SITE_HEIGHT,
    ModularLayout,
    Spectrum,
    flat_share,
    lay_out_rows,
    spectra_of,
    spectrum_data,
    strips_of,
)
from circuit_lab.report.circuit.states import attention_table
from circuit_lab.report.circuit.values import exact, level, printed, short, short_all
from circuit_lab.verdict import Diagnosis
from circuit_lab.verdict.diagnosis import Evidence
from circuit_lab.verdict.exhibits import ModularExhibits
from circuit_lab.verdict.exhibits.gather_modular import EMBEDDING, LOGITS, WHOLE
from circuit_lab.verdict.modular.evidence import ONLY_KEY, WITHOUT_KEY

LEGEND = (
    {"mark": "bar", "words": "bar: share of the key frequencies; tick: with equal energy in every frequency"},
    {"mark": "spectrum-key", "words": "key frequency"},
    {"mark": "spectrum-other", "words": "other frequency"},
    {"mark": "look", "words": "attention (a reading); the wider the more"},
)


@dataclass(frozen=True)
class ModularNode:
    """A component's node as drawn at first.

    Attributes:
        id: "m<row>.<lane>".
        name: What it is.
        box: Where it stands.
        text: What it says.
        level: CSS class of its colour; empty where it has no spectrum.
        value: Share of the key frequencies.
        control: That of a flat spectrum.
        lines: What the ablation of this site leaves right; empty elsewhere.
    """

    id: str
    name: str
    box: Box
    text: str
    level: str = ""
    value: float | None = None
    control: float | None = None
    lines: tuple[str, ...] = ()


def modular_circuit(diagnosis: Diagnosis, exhibits: ModularExhibits) -> dict[str, Any]:
    """Everything that the templates and the page's script need.

    Args:
        diagnosis: A diagnosis that still holds its measurements.
        exhibits: What was measured for the report.

    Returns:
        `data` for the script, JSON-able; everything else for the templates.
    """
    subject, measured = diagnosis.measurements.subject, diagnosis.measurements
    spectra = spectra_of(exhibits)
    components = tuple(dict.fromkeys(spectrum.component for spectrum in spectra))
    groups = [[s for s in spectra if s.component == component] for component in components]
    splits, split = list(measured.ablations), measured.decomposition.fitted_on
    ablations = {site: _ablation_cells(diagnosis.evidence, site, splits) for site in (INPUTS, ANSWER)}
    ablations = {site: cells for site, cells in ablations.items() if any(cells)}
    layout = lay_out_rows([len(group) for group in groups], n_lanes=len(exhibits.position_names))
    at = int(next(q for q in subject.task.splits.values() if len(q)).answer_position[0])
    shown, weights = exhibits.attention, None
    if shown is not None and len(shown) and exhibits.attended == exhibits.position_names:
        weights = mean_interval(shown.movedim(0, -1))
    attention = _attention(exhibits, weights, is_causal(subject.net))
    nodes, details = _nodes(groups, exhibits, layout, at, ablations, splits.index(split))
    stages = {site.layer: i for i, site in enumerate(subject.net.lens_sites)}
    for detail in details.values():
        detail |= _lens(detail["component"], detail["position"], components, exhibits, stages)
    looks = _looks(components, weights, at, exhibits.position_names)
    return {
        "kind": "modular",
        "layout": layout,
        "components": components,
        "positions": exhibits.position_names,
        "at": at,
        "strips": strips_of(groups, layout),
        "nodes": nodes,
        "looks": _look_lines(looks, layout, components, exhibits.position_names, at),
        "splits": splits,
        "split": split,
        "tests": [],
        "edges": [],
        "summary": _summary(groups, exhibits.key_frequencies, ablations, splits, split),
        "scale": "share of a component's spectrum in the key frequencies",
        "legend": [entry for entry in LEGEND if looks or entry["mark"] != "look"],
        "how": _how(exhibits, has_looks=bool(looks)),
        "data": {
            "kind": "modular",
            "splits": splits,
            "split": split,
            "nodes": details,
            "spectra": [spectrum_data(spectrum) for spectrum in spectra],
            "ablations": ablations,
            "n_pairs": _n_pairs(exhibits),
            "attention": attention,
            "looks": looks,
            "lens": {"n": exhibits.lens.n, "chance": short(exhibits.lens.chance)},
        },
    }


def _ablation_cells(evidence: Sequence[Evidence], site: str, splits: Sequence[str]) -> list[list[Any] | None]:
    """Per split: right without (value, low, high, control, n), right with only (value, low, high, n), site in words."""
    rows = {(row.name, row.split): row for row in evidence if row.site.partition(",")[0] == site}
    cells: list[list[Any] | None] = []
    for split in splits:
        without, only = rows.get((WITHOUT_KEY, split)), rows.get((ONLY_KEY, split))
        if without is None or only is None:
            cells.append(None)
            continue
        of_without = [exact(without.value), *short_all([without.low, without.high, without.control]), without.n]
        cells.append([*of_without, exact(only.value), *short_all([only.low, only.high]), only.n, without.site])
    return cells


def _nodes(
    groups: Sequence[Sequence[Spectrum]],
    exhibits: ModularExhibits,
    layout: ModularLayout,
    at: int,
    ablations: Mapping[str, Sequence[list[Any] | None]],
    at_first: int,
) -> tuple[list[ModularNode], dict[str, dict[str, Any]]]:
    """The nodes, and what the script knows of each."""
    nodes, details, number = [], {}, 0
    for row, group in enumerate(groups):
        component = group[0].component
        numbers = list(range(number, number + len(group)))
        number += len(group)
        main = max(group, key=lambda spectrum: spectrum.of_component)
        for lane in range(len(exhibits.position_names)) if component == EMBEDDING else [at]:
            position = exhibits.position_names[lane]
            is_input = component == EMBEDDING and lane != at
            site = INPUTS if is_input else ANSWER if component == LOGITS else None
            cells = ablations.get(site) if site is not None else None
            box = Box(layout.lanes[lane], layout.rows[row], NODE_WIDTH, SITE_HEIGHT if cells else NODE_HEIGHT)
            node_id, name = f"m{row}.{lane}", f"{component} @ {position}"
            details[node_id] = {"component": component, "name": name, "position": lane}
            if component == EMBEDDING and not is_input:
                nodes.append(ModularNode(node_id, name, box, position))  # no element stands here
                continue
            nodes.append(
                ModularNode(
                    node_id,
                    name,
                    box,
                    f"key {printed(main.key_share)}",
                    level(main.key_share),
                    main.key_share,
                    flat_share(main),
                    _ablation_lines(cells[at_first]) if cells else (),
                )
            )
            details[node_id] |= {"spectra": numbers, "main": numbers[group.index(main)]}
            details[node_id] |= {"site": site} if cells else {}
    return nodes, details


def _ablation_lines(cell: Sequence[Any] | None) -> tuple[str, ...]:
    return ("without –", "only –") if cell is None else (f"without {printed(cell[0])}", f"only {printed(cell[5])}")


def _attention(exhibits: ModularExhibits, weights: MeanInterval | None, causal: bool) -> dict[str, Any] | None:
    if weights is None:
        return None
    n_ctx = len(exhibits.position_names)
    visible = torch.ones(n_ctx, n_ctx, dtype=torch.float64)
    visible = visible.tril() if causal else visible
    uniform = visible / visible.sum(-1, keepdim=True)
    return attention_table(weights, uniform, exhibits.position_names, len(exhibits.queries))


def _layer(component: str) -> int | None:
    """The layer of "attention 0" or "MLP 0"; None of what belongs to no layer."""
    last = component.rpartition(" ")[2]
    return int(last) if last.isdigit() else None


def _lens(
    component: str,
    position: int,
    components: Sequence[str],
    exhibits: ModularExhibits,
    stages: Mapping[int, int],
) -> dict[str, Any]:
    """Share of the pairs shown with the answer on top of the lens, after the last component of a layer has written."""
    layer = _layer(component)
    last_of_layer = layer is not None and [c for c in components if _layer(c) == layer][-1] == component
    if component != EMBEDDING and not last_of_layer:
        return {"layers": [layer]} if layer is not None else {}
    stage = stages.get(0 if layer is None else layer + 1)
    if stage is None:  # within a recursive net's step of several layers
        return {"layers": [layer]}
    top1 = exhibits.lens.top1
    cell = (0, stage, position)
    read = short_all([float(part[cell]) for part in (top1.mean, top1.low, top1.high)])
    return {"lens": [exhibits.lens.sites[stage], *read]} | ({"layers": [layer]} if layer is not None else {})


def _looks(
    components: Sequence[str], weights: MeanInterval | None, at: int, positions: Sequence[str]
) -> list[dict[str, Any]]:
    """Attention from the answer's position: per layer and source the mean over heads, and each head's weight."""
    layers = sorted({layer for c in components if (layer := _layer(c)) is not None})
    if weights is None:
        return []
    return [
        {
            "layer": layer,
            "src": positions[src],
            "dest": positions[at],
            "mean": short(float(weights.mean[layer, :, at, src].mean())),
        }
        for layer in layers
        for src in range(len(positions))
        if src != at
    ]


def _look_lines(
    looks: Sequence[Mapping[str, Any]],
    layout: ModularLayout,
    components: Sequence[str],
    positions: Sequence[str],
    at: int,
) -> list[tuple[str, float]]:
    """SVG path and width of each look: from the source's stream to the layer's first component."""
    lines = []
    for look in looks:
        row = next(i for i, component in enumerate(components) if _layer(component) == look["layer"])
        x1, y1 = layout.lanes[positions.index(look["src"])], layout.rows[row] + NODE_HEIGHT / 2 + 30
        side = -1 if x1 < layout.lanes[at] else 1
        x2, y2 = layout.lanes[at] + side * NODE_WIDTH / 2, layout.rows[row]
        path = f"M{x1:.0f} {y1:.0f}C{x1:.0f} {y2:.0f} {(x1 + x2) / 2:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
        lines.append((path, round(max(1.0, 8 * look["mean"]), 1)))
    return lines


def _n_pairs(exhibits: ModularExhibits) -> int:
    """Pairs of the grid that the spectra are read over."""
    return exhibits.logit_maps[WHOLE].numel()


def _how(exhibits: ModularExhibits, *, has_looks: bool) -> str:
    highest, key = exhibits.spectra["share"].max(), ", ".join(exhibits.key_frequencies)
    attention = (
        f"; attention is the mean over the {len(exhibits.queries)} pairs of the query explorer" if has_looks else ""
    )
    return (
        f"Tokens stand side by side, components from the embedding up to the logits. Spectra are read at the answer's "
        f"position over all {_n_pairs(exhibits)} pairs, those of embedding and unembedding off the weights; "
        f"all on one scale, whose highest bar is {highest:.2f}. The key frequencies ({key}) were named on pairs that "
        f"nothing else is read on. “without” and “only” are the shares of answers that are right without the key "
        f"frequencies, and with nothing else, removed at that node{attention}. Point at anything for its number, "
        f"interval, control and n; click it for all there is on it."
    )


def _summary(
    groups: Sequence[Sequence[Spectrum]],
    key: Sequence[str],
    ablations: Mapping[str, Sequence[list[Any] | None]],
    splits: Sequence[str],
    split: str,
) -> list[str]:
    """The picture in words, for those who cannot see it."""
    shares = "; ".join(f"{s.name} {s.key_share:.2f}" for group in groups for s in group)
    lines = [f"The key frequencies are {', '.join(key)}.", f"Their share of each spectrum: {shares}."]
    for site, cells in ablations.items():
        cell = cells[splits.index(split)]
        if cell is not None:
            lines.append(
                f"Removed at the {site}, {printed(cell[0])} of {cell[4]} answers of {split} stay right (random "
                f"subspaces: {printed(cell[3])}); with nothing else, {printed(cell[5])}."
            )
    return lines
