"""What a control is: a net whose right verdict is known without the measures, and the recipe that builds it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.tasks import Task
from circuit_lab.verdict.verdicts import Verdict

Kind = Literal["known_answer", "perturbed", "untrained", "random_labels", "memorising", "trained"]

NO_CIRCUIT_KINDS: tuple[Kind, ...] = ("untrained", "random_labels", "memorising")
"""Kinds of nets in which there is no circuit to be found, whatever their accuracies."""


@dataclass(frozen=True)
class Perturbation:
    """What was done to another control's net.

    Attributes:
        of: Name of the control that was perturbed.
        how: "noise" on every weight, or "rotation" of the basis of the residual stream.
        std_share: Standard deviation of the noise as a share of each matrix's own; 0 for a rotation.
    """

    of: str
    how: Literal["noise", "rotation"]
    std_share: float = 0.0


@dataclass(frozen=True, eq=False)
class Control:
    """A net with its task, and the verdict that it must get.

    Attributes:
        name: Unique and stable, such as "two_hop/shared_table/task=0".
        family: Such as "two_hop/shared_table"; the two halves of the controls are made of whole families.
        mechanism: One sentence: what the net does, known by construction.
        truth: The right verdict; None where it cannot be known without the measures.
        kind: What sort of net it is.
        held_out: Whether its family belongs to the held-out half, on which nothing was chosen.
        build: Makes the net and its task.
        scored: Whether it counts in the F1 score; not where the share it was built with lies so close to a threshold
            that only luck could name it. It counts in the calibration of confidence all the same.
        perturbation: What was done to which other control; None for an untouched net.
    """

    name: str
    family: str
    mechanism: str
    truth: Verdict | None
    kind: Kind
    held_out: bool
    build: Callable[[], tuple[HookedSharedTransformer, Task]]
    scored: bool = True
    perturbation: Perturbation | None = None
