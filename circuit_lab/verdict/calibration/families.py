"""Families of wired nets, and how a family becomes controls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

import torch
from jaxtyping import Bool
from torch import Tensor

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.tasks import ModularConfig, Task, TwoHopConfig, build_task
from circuit_lab.verdict.calibration.controls import Control, Kind
from circuit_lab.verdict.calibration.halves import is_held_out
from circuit_lab.verdict.subject import TaskT
from circuit_lab.verdict.verdicts import Verdict

Draw = torch.Generator
_FIRST_SEED = {"two_hop": 1000, "modular": 2000}


@dataclass(frozen=True)
class Family(Generic[TaskT]):
    """Nets wired in one way.

    Attributes:
        name: Of the family, without the kind of its tasks before it.
        mechanism: One sentence.
        truth: The right verdict; None where no verdict's meaning covers the mechanism.
        wire: Makes the net for a task.
        tasks: What it is wired for, all of one kind.
        kind: What sort of net it is.
        scored: Whether its controls count in the F1 score.
    """

    name: str
    mechanism: str
    truth: Verdict | None
    wire: Callable[[TaskT, Draw], HookedSharedTransformer]
    tasks: Sequence[TwoHopConfig] | Sequence[ModularConfig]
    kind: Kind = "known_answer"
    scored: bool = True


def controls_of(family: Family[Any]) -> Iterator[Control]:
    """A control for each of the family's tasks; what follows a space in the family's name tells its controls apart."""
    for i, config in enumerate(family.tasks):
        name, _, suffix = f"{config.kind}/{family.name}".partition(" ")
        yield Control(
            name="/".join([name, f"task={i}", *([suffix] if suffix else [])]),
            family=name,
            mechanism=family.mechanism,
            truth=family.truth,
            kind=family.kind,
            held_out=is_held_out(name),
            build=partial(_build, family.wire, config, _FIRST_SEED[config.kind] + i),
            scored=family.scored and family.truth is not None,
        )


def _build(
    wire: Callable[[Any, Draw], HookedSharedTransformer], config: TwoHopConfig | ModularConfig, seed: int
) -> tuple[HookedSharedTransformer, Task]:
    task = build_task(config)
    return wire(task, torch.Generator().manual_seed(seed)), task


def drawn(n: int, share: float, draw: Draw) -> Bool[Tensor, " n"]:
    """Each of n things by itself, with probability `share`."""
    return torch.rand(n, generator=draw) < share
