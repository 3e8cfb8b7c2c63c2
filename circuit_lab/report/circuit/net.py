"""The net as the diagram sees it: stages, the components between them, positions, passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.report.circuit.layout import Box, Bracket, Component, passes


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
    """

    stages: tuple[str, ...]
    layers: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[Component, ...], ...]
    layer_map: tuple[int, ...]
    positions: tuple[str, ...]
    lanes: tuple[str, ...]
    answer_lane: int

    @property
    def components(self) -> tuple[Component, ...]:
        """All components, bottom to top."""
        return tuple(part for gap in self.parts for part in gap)

    @property
    def brackets(self) -> tuple[Bracket, ...]:
        """The passes, over gaps."""
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
    net: HookedSharedTransformer,
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
    return Net(
        stages=(*known, *others),
        layers=layers,
        parts=tuple(
            tuple(part for layer in gap for part in _parts(layer, cfg.n_heads, heads_together)) for gap in layers
        ),
        layer_map=cfg.layer_map,
        positions=tuple(positions),
        lanes=(*positions, *(name for name in swept if name not in positions)),
        answer_lane=answer_lane,
    )


def _parts(layer: int, n_heads: int, together: bool) -> list[Component]:
    """A layer's heads and its MLP."""
    heads = [Component(f"head {layer}.{head}", f"h{head}", 2 * layer, wide=False) for head in range(n_heads)]
    if together:
        heads = [Component(f"attn {layer}", "attn", 2 * layer, wide=True)]
    return [*heads, Component(f"mlp {layer}", "MLP", 2 * layer + 1, wide=True, at_right=True)]


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
