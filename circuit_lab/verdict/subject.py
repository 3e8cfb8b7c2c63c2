"""What is diagnosed: a net, the task whose queries it is asked, and where both come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Task
from circuit_lab.training import Checkpoint, load_checkpoint, resolve_checkpoint, resolve_device

TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True, eq=False)
class Subject(Generic[TaskT]):
    """A net with its task.

    Attributes:
        net: The net.
        task: The task.
        source: Where they come from, in words.
        checkpoint: The checkpoint they were loaded from; None for a net in memory.
    """

    net: HookedNet
    task: TaskT
    source: str
    checkpoint: Checkpoint | None

    @property
    def step(self) -> int | None:
        """Training step of the checkpoint."""
        return None if self.checkpoint is None else self.checkpoint.step


CheckpointLike = str | Path | Checkpoint | tuple[HookedNet, Task]
"""What `diagnose` takes: a path, a reference model's name, a loaded checkpoint, or a net with its task."""


def find_subject(checkpoint: CheckpointLike, *, device: str) -> Subject:
    """The net and task that the argument of `diagnose` means."""
    if isinstance(checkpoint, Checkpoint):
        return Subject(net=checkpoint.net, task=checkpoint.task, source=str(checkpoint.path), checkpoint=checkpoint)
    if isinstance(checkpoint, tuple):
        net, task = checkpoint
        return Subject(net=net, task=task, source="a net and its task, in memory", checkpoint=None)
    loaded = load_checkpoint(resolve_checkpoint(checkpoint), device=str(resolve_device(device)))
    return Subject(net=loaded.net, task=loaded.task, source=str(checkpoint), checkpoint=loaded)
