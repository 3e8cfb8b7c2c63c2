"""The progress bar of a run: loss, accuracies by split, time left."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

STEPS_PER_REFRESH = 20
_SHOWN = ("train_inferred", "test_id", "test_ood", "train", "test")


class ProgressBar:
    """A line of the terminal that the loop keeps up to date."""

    def __init__(self, progress: Progress, *, n_steps: int) -> None:
        self._progress = progress
        self._id = progress.add_task("training", total=n_steps, loss="", accuracy="")

    def step(self, step: int) -> None:
        """Show the step."""
        self._progress.update(self._id, completed=step)

    def loss(self, step: int, loss: float) -> None:
        """Show the step and its loss."""
        self._progress.update(self._id, completed=step, loss=f"loss {loss:.3f}")

    def accuracies(self, accuracy: Mapping[str, float]) -> None:
        """Show the accuracies of the last evaluation."""
        shown = "  ".join(f"{name} {accuracy[name]:.2f}" for name in _SHOWN if name in accuracy)
        self._progress.update(self._id, accuracy=shown)


@contextmanager
def progress_bar(*, n_steps: int, show: bool) -> Iterator[ProgressBar]:
    """A bar on the terminal's error stream, removed at the end; silent where there is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}  {task.fields[accuracy]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not show) as progress:
        yield ProgressBar(progress, n_steps=n_steps)
