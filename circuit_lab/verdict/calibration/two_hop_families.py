"""What wired two-hop nets are wired for: tasks, and the triples of a task that a table may list."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.tasks import TwoHopConfig, TwoHopTask
from circuit_lab.verdict.calibration.families import Draw, Family


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

Wire = Callable[[TwoHopTask, Draw], HookedSharedTransformer]


@dataclass(frozen=True)
class TwoHopFamily(Family[TwoHopTask]):
    """Two-hop nets wired in one way."""

    tasks: Sequence[TwoHopConfig] = TASKS


def triples_of(task: TwoHopTask, splits: Sequence[str]) -> Int[Tensor, "n 4"]:
    """Rows (h, r1, r2, answer) of the named splits."""
    chosen = [task.splits[name] for name in splits]
    return torch.cat([torch.cat([queries.tokens, queries.answer[:, None]], dim=1) for queries in chosen])


def training_triples(task: TwoHopTask) -> Int[Tensor, "n 4"]:
    """Rows (h, r1, r2, answer) of all that is trained on, augmentation included."""
    in_training = torch.cat([task.splits[name].in_training for name in EVERY])
    return triples_of(task, EVERY)[in_training]
