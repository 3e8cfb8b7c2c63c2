"""The net as the diagram sees it: stages, the components between them, positions, passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from circuit_lab.measures.hooked_model import mixer_of
from circuit_lab.measures.model_facts import sites_read
from circuit_lab.nets import HookedNet, LensSite
from circuit_lab.report.circuit.layout import Box, Bracket, Component, passes

_COLUMNS = {"residual": 0.0, "z_L": 0.0, "input": 0.5, "z_H": 1.0}
"""Column of each stream's states in a lane."""
_TEXTS = {"attn": "attn", "pos_mlp": "mix"}
"""What the node of each way to mix positions says."""


@dataclass(frozen=True)
class Net:
    """What the diagram needs to know of the net.

    Attributes:
        stages: Labels of the stages, input to output.
        layers: The layers between each stage and the next.
        parts: The components between each stage and the next.
        layer_map: Block of each layer.
        positions: Names of the positions.
        lanes: The positions, and "all" if edges were patched at all positions at once.
        answer_lane: Where the answer is read.
        columns: Where each stage stands in a lane: a recursive net's z_L in column 0, its z_H in column 1, and its
            input, which both read, between them; all of one stream in column 0.
        reads: For each stage, the numbers of those that it is made of.
        cycles: A recursive net's cycles, over gaps; none of a net with one stream.
    """

    stages: tuple[str, ...]
    layers: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[Component, ...], ...]
    layer_map: tuple[int, ...]
    positions: tuple[str, ...]
    lanes: tuple[str, ...]
    answer_lane: int
    columns: tuple[float, ...]
    reads: tuple[tuple[int, ...], ...]
    cycles: tuple[Bracket, ...]

    @property
    def has_two_streams(self) -> bool:
        """Whether this is a recursive net."""
        return len(set(self.columns)) > 1

    @property
    def components(self) -> tuple[Component, ...]:
        """All components, bottom to top."""
        return tuple(part for gap in self.parts for part in gap)

    @property
    def brackets(self) -> tuple[Bracket, ...]:
        """The cycles of a recursive net, or the passes of another, over gaps."""
        if self.has_two_streams:
            return self.cycles
        gap_of = {layer: gap for gap, layers in enumerate(self.layers) for layer in layers}
        return tuple(Bracket(b.name, gap_of[b.first], gap_of[b.last]) for b in passes(self.layer_map))

    @property
    def gap_labels(self) -> tuple[str, ...]:
        """What stands beside each gap: its layers, and their blocks where a block is used twice."""
        shared = len(set(self.layer_map)) < len(self.layer_map)
        return tuple(
            "; ".join(f"layer {layer}" + (f", block {self.layer_map[layer]}" if shared else "") for layer in layers)
            for layers in self.layers
        )

    def state_id(self, stage: str, lane: int) -> str:
        """Id of a state's node."""
        return f"s{self.stages.index(stage)}.{lane}"

    def component_id(self, name: str, lane: int) -> str:
        """Id of a component's node."""
        return f"c{[part.name for part in self.components].index(name)}.{lane}"


def net_of(
    net: HookedNet,
    *,
    positions: Sequence[str],
    stages: Sequence[str],
    swept: Sequence[str],
    answer_lane: int,
    heads_together: bool,
) -> Net:
    """Read the stages and components off a net.

    Args:
        net: The net.
        positions: Names of the positions.
        stages: Stages with effects; those that the net does not declare are put after its own.
        swept: Positions at which edges were patched; empty without edges.
        answer_lane: The position at which the answer is read.
        heads_together: Whether a layer's heads are one node.

    Returns:
        The description.
    """
    sites, cfg = net.lens_sites, net.cfg
    known = [site.label for site in sites]
    others = [stage for stage in dict.fromkeys(stages) if stage not in known]
    ran = [site.layer for site in sites] + [cfg.n_layers] * len(others)
    layers = tuple(tuple(range(before, after)) for before, after in pairwise(ran))
    mixer = "pos_mlp" if mixer_of(net) == "pos_mlp" else "attn" if heads_together else "head"
    return Net(
        stages=(*known, *others),
        layers=layers,
        parts=tuple(tuple(part for layer in gap for part in _parts(layer, cfg.n_heads, mixer)) for gap in layers),
        layer_map=cfg.layer_map,
        positions=tuple(positions),
        lanes=(*positions, *(name for name in swept if name not in positions)),
        answer_lane=answer_lane,
        columns=(*(_COLUMNS[site.stream] for site in sites), *[0.0] * len(others)),
        reads=(*(sites_read(sites, number) for number in range(len(sites))), *[()] * len(others)),
        cycles=_cycles(sites),
    )


def _cycles(sites: Sequence[LensSite]) -> tuple[Bracket, ...]:
    """The gaps from one commit to the next: the step that makes site k + 1 is gap k."""
    commits = [number for number, site in enumerate(sites) if site.stream == "z_H"]
    return tuple(
        Bracket(f"cycle H{cycle}", before, commit - 1) for cycle, (before, commit) in enumerate(pairwise([0, *commits]))
    )


def _parts(layer: int, n_heads: int, mixer: str) -> list[Component]:
    """What mixes positions in a layer, and its MLP."""
    mixing = [Component(f"head {layer}.{head}", f"h{head}", 2 * layer, wide=False) for head in range(n_heads)]
    if mixer != "head":
        mixing = [Component(f"{mixer} {layer}", _TEXTS[mixer], 2 * layer, wide=True)]
    return [*mixing, Component(f"mlp {layer}", "MLP", 2 * layer + 1, wide=True, at_right=True)]


@dataclass(frozen=True)
class Node:
    """A node as drawn at first; what else is known of it goes to the page's script under its id.

    Attributes:
        id: "s<stage>.<lane>", "c<component>.<lane>" or "answer".
        kind: "state", "head", "mlp" or "answer".
        name: What it is, such as "resid_post 0 @ r1".
        box: Where it stands.
        text: What it says.
        level: CSS class of its colour; empty for a component.
        value: The share that it shows, in [0, 1]; None without one.
        control: The control's share.
        located: Whether the bridge is handed on here.
        plain: Whether nothing is ever tested there.
    """

    id: str
    kind: str
    name: str
    box: Box
    text: str
    level: str = ""
    value: float | None = None
    control: float | None = None
    located: bool = False
    plain: bool = False
