"""The states of the stream: transplant rates, lens readings and activation patching at each stage and position."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuit_lab.measures import METRICS, ActivationPatching, BridgeRecovery, MeanInterval
from circuit_lab.measures.readings.attention import PREFIX
from circuit_lab.report.circuit.edges import METRIC
from circuit_lab.report.circuit.layout import PLAIN_HEIGHT, Layout, cut
from circuit_lab.report.circuit.net import Net, Node
from circuit_lab.report.circuit.values import exact, level, printed, short, short_all
from circuit_lab.verdict import Diagnosis

Cell = list[float | int | None] | None
Cells = list[Cell]
"""Of one site, per test and split: rate, low, high, control, n queries, n transplants; None where not measured."""

_AROUND = ("low", "high", "control")


def effect_cells(effects: pd.DataFrame, tests: Sequence[str], splits: Sequence[str]) -> dict[tuple[str, str], Cells]:
    """The transplants by (stage, position).

    Args:
        effects: `TwoHopExhibits.site_effects`.
        tests: Names of the tests, in the order wanted.
        splits: Names of the splits, in the order wanted.

    Returns:
        The cells of each site.
    """
    found: dict[tuple[str, str], Cells] = {}
    for row in effects.to_dict("records"):
        cells = found.setdefault((row["stage"], row["position"]), [None] * (len(tests) * len(splits)))
        number = tests.index(row["test"]) * len(splits) + splits.index(row["split"])
        around = short_all([row[name] for name in _AROUND])
        cells[number] = [exact(row["rate"]), *around, int(row["n"]), int(row["n_transplants"])]
    return found


def accuracies(diagnosis: Diagnosis, splits: Sequence[str]) -> Cells:
    """Accuracy of each split as the evidence has it: value, low, high, chance, n."""
    rows = {row.split: row for row in diagnosis.evidence if row.name == "accuracy"}
    of_splits = [rows.get(split) for split in splits]
    return [
        None if row is None else [exact(row.value), *short_all([row.low, row.high, row.control]), row.n]
        for row in of_splits
    ]


def state_node(
    net: Net, layout: Layout, stage: str, lane: int, *, cells: Cells | None, at_first: int, located: bool
) -> Node:
    """The node of a state, as drawn at first.

    Args:
        net: The net.
        layout: Where it stands.
        stage: Its stage.
        lane: Its lane.
        cells: Its transplants; None where none are ever made, as at the embedding.
        at_first: Which of the cells is shown first.
        located: Whether the bridge is handed on there.

    Returns:
        The node.
    """
    box, name = layout.states[stage, lane], f"{stage} @ {net.lanes[lane]}"
    node = Node(net.state_id(stage, lane), "state", name, box, text="–", level=level(None))
    if cells is None:
        text = cut(net.lanes[lane], 9) if stage == net.stages[0] else "–"
        return replace(node, box=replace(box, height=PLAIN_HEIGHT), text=text, level="", plain=True)
    cell = cells[at_first]
    rate, control = (None, None) if cell is None else (cell[0], cell[3])
    return replace(node, text=printed(rate), level=level(rate), value=rate, control=control, located=located)


def answer_node(layout: Layout, cell: Cell) -> Node:
    """The node of the answer, which shows the accuracy."""
    rate, chance = (None, None) if cell is None else (cell[0], cell[3])
    return Node("answer", "answer", "answer", layout.answer, printed(rate), level(rate), rate, chance)


def state_readings(
    stage: str, position: str, lens: Mapping[str, BridgeRecovery], patching: Mapping[str, ActivationPatching]
) -> dict[str, Any]:
    """What lens and activation patching show at a state.

    Args:
        stage: The stage.
        position: The position's name.
        lens: By split.
        patching: By what differs between clean and corrupt query.

    Returns:
        `lens`: per split the share of queries with the bridge and with the answer on top. `patching`: per corruption
        the metric after the patch, its interval, the recovered share, its interval. Without what was not read there.
    """
    by_name = {
        "lens": [_lens_cell(reading, stage, position) for reading in lens.values()],
        "patching": [_patching_cell(result, stage, position) for result in patching.values()],
    }
    return {name: cells for name, cells in by_name.items() if any(cell is not None for cell in cells)}


def _lens_cell(reading: BridgeRecovery, stage: str, position: str) -> list[float | None] | None:
    if stage not in reading.stages or position not in reading.position_names:
        return None
    i, j = reading.stages.index(stage), reading.position_names.index(position)
    return short_all([float(reading.bridge_top1[i, j]), float(reading.answer_top1[i, j])])


def _patching_cell(result: ActivationPatching, stage: str, position: str) -> list[float | None] | None:
    if result.axes != ("site", "position"):
        return None
    sites, positions = result.labels
    if stage not in sites or position not in positions:
        return None
    i, j = sites.index(stage), positions.index(position)
    value, recovered = result.interval(METRIC), result.recovered(METRIC)
    parts = (value.mean, value.low, value.high, recovered.mean, recovered.low, recovered.high)
    return short_all([float(part[i, j]) for part in parts])


def lens_table(lens: Mapping[str, BridgeRecovery]) -> dict[str, Any]:
    """What the columns of the lens are: splits, queries read, chance."""
    return {
        "splits": list(lens),
        "n": [reading.n for reading in lens.values()],
        "chance": short(next((reading.chance for reading in lens.values()), None)),
    }


def patching_table(patching: Mapping[str, ActivationPatching]) -> list[dict[str, Any]]:
    """What the rows of activation patching are: corruption, direction, pairs, the metric in both runs."""
    row = METRICS.index(METRIC)
    return [
        {
            "corruption": name,
            "direction": result.direction,
            "n": result.n,
            "receiver": short(float(result.receiver[row].mean())),
            "source": short(float(result.source[row].mean())),
        }
        for name, result in patching.items()
    ]


def attention_table(
    weight: MeanInterval, uniform: Float[Tensor, "n_ctx n_ctx"], positions: Sequence[str], n: int
) -> dict[str, Any]:
    """Mean attention weights for the page's script.

    Args:
        weight: Mean weights with intervals, `[n_layers, n_heads, destination, source]`, in [0, 1].
        uniform: The weight at chance.
        positions: Names of the positions; a learned prefix's, if it has one, is the first.
        n: Queries behind the means.

    Returns:
        `positions`, a learned prefix's last, so that those of the tokens are numbered as the lanes are; `heads`: name
        -> `[destination][source]` -> mean, low, high; `uniform`, `[destination][source]`.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i] == PREFIX)
    cells = torch.stack([weight.mean, weight.low, weight.high], dim=-1)[:, :, order][:, :, :, order]
    return {
        "positions": [positions[i] for i in order],
        "n": n,
        "uniform": [short_all(row) for row in uniform[order][:, order].tolist()],
        "heads": {
            f"{layer}.{head}": [[short_all(cell) for cell in row] for row in rows.tolist()]
            for layer, of_layer in enumerate(cells)
            for head, rows in enumerate(of_layer)
        },
    }
