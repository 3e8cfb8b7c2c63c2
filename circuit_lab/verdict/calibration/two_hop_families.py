"""Families of wired two-hop nets: the tasks they are wired for, and how a family becomes controls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.tasks import Task, TwoHopConfig, TwoHopTask, build_task
from circuit_lab.verdict.calibration.controls import Control, Kind
from circuit_lab.verdict.calibration.halves import is_held_out
from circuit_lab.verdict.verdicts import Verdict


def _task(
    n_entities: int, n_relations: int, out_degree: int, ood_share: float, *, seed: int, regime: str = "natural"
) -> TwoHopConfig:
    return TwoHopConfig(
        n_entities=n_entities,
        n_relations=n_relations,
        out_degree=out_degree,
        ood_share=ood_share,
        test_id_share=0.25,
        regime=regime,
        seed=seed,
    )


NATURAL_TASKS = (
    _task(16, 7, 7, 0.38, seed=0),
    _task(20, 8, 8, 0.34, seed=3),
    _task(20, 10, 6, 0.4, seed=1),
    _task(18, 8, 8, 0.36, seed=5),
    _task(22, 9, 7, 0.36, seed=6),
)
"""Tasks of several shapes whose OOD facts no training query composes, with 107 to 154 queries in `test_ood`."""
TASKS = (
    *NATURAL_TASKS[:3],
    _task(18, 8, 8, 0.36, seed=2, regime="both_full"),
    _task(22, 9, 7, 0.36, seed=4, regime="second_hop_full"),
)
"""Tasks of several shapes and regimes."""
LARGE_TASKS = tuple(_task(36, 10, 10, 0.4, seed=seed) for seed in range(4))
"""Tasks for middling shares: some 570 queries in `test_ood`, so that an interval is half as wide as their range."""

TESTED = ("test_id", "test_ood")
EVERY = ("train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood")

Draw = torch.Generator
Wire = Callable[[TwoHopTask, Draw], HookedSharedTransformer]


@dataclass(frozen=True)
class TwoHopFamily:
    """Nets wired in one way.

    Attributes:
        name: Of the family, without its prefix.
        mechanism: One sentence.
        truth: The right verdict; None where no verdict's meaning covers the mechanism.
        wire: Makes the net for a task.
        kind: What sort of net it is.
        tasks: What it is wired for.
        scored: Whether its controls count in the F1 score.
    """

    name: str
    mechanism: str
    truth: Verdict | None
    wire: Wire
    kind: Kind = "known_answer"
    tasks: Sequence[TwoHopConfig] = TASKS
    scored: bool = True


def controls_of(family: TwoHopFamily) -> Iterator[Control]:
    """A control for each of the family's tasks; what follows a space in the family's name tells its controls apart."""
    name, _, suffix = f"two_hop/{family.name}".partition(" ")
    for i, config in enumerate(family.tasks):
        parts = [name, f"task={i}", *([suffix] if suffix else [])]
        yield Control(
            name="/".join(parts),
            family=name,
            mechanism=family.mechanism,
            truth=family.truth,
            kind=family.kind,
            held_out=is_held_out(name),
            build=partial(_build, family.wire, config, i),
            scored=family.scored and family.truth is not None,
        )


def _build(wire: Wire, config: TwoHopConfig, seed: int) -> tuple[HookedSharedTransformer, Task]:
    task = build_task(config)
    assert isinstance(task, TwoHopTask)
    return wire(task, torch.Generator().manual_seed(1000 + seed)), task


def triples_of(task: TwoHopTask, splits: Sequence[str]) -> Int[Tensor, "n 4"]:
    """Rows (h, r1, r2, answer) of the named splits."""
    chosen = [task.splits[name] for name in splits]
    return torch.cat([torch.cat([queries.tokens, queries.answer[:, None]], dim=1) for queries in chosen])


def training_triples(task: TwoHopTask) -> Int[Tensor, "n 4"]:
    """Rows (h, r1, r2, answer) of all that is trained on, augmentation included."""
    in_training = torch.cat([task.splits[name].in_training for name in EVERY])
    return triples_of(task, EVERY)[in_training]


def drawn(n: int, share: float, draw: Draw) -> Bool[Tensor, " n"]:
    """Each of n things by itself, with probability `share`."""
    return torch.rand(n, generator=draw) < share
