"""What a run would cost on this machine: a few real steps are timed, and nothing is written.

A step that would take too long to be timed is timed on two smaller batches, and the straight line through both is
drawn on to the recipe's batch: what a step costs is a constant (the optimiser) plus a time per row. Small batches use
a machine less well, so that such a figure is rather too large than too small.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch

from circuit_lab.nets import in_eval_mode
from circuit_lab.tasks import Task
from circuit_lab.training.batches import BatchStream
from circuit_lab.training.device import cpu_threads, resolve_device
from circuit_lab.training.evaluation import LARGEST_EVALUATED, evaluated_queries, read_queries
from circuit_lab.training.learner import Learner
from circuit_lab.training.prepared import prepare
from circuit_lab.training.recipe import Recipe

_SMALLEST = 2
"""Items of the first try, which also loads code."""
_ALWAYS_TRIED = 8
"""A size that is timed however long it takes, for two tiny batches make no line."""
_GROWTH = 4
"""How much larger the next size is that is tried, and the larger of two that are timed."""
_MIN_TIMED, _MAX_TIMED = 3, 100
"""Steps timed at each size."""
_UNITS = (
    ("ms", 1e-3, 1.0),
    ("s", 1.0, 90.0),
    ("min", 60.0, 5400.0),
    ("h", 3600.0, 172_800.0),
    ("days", 86_400.0, math.inf),
)
"""Name, length in seconds, and up to how many seconds a time is told in it."""


@dataclass(frozen=True)
class TrainingCost:
    """What a recipe costs on a device, saving files not counted.

    Attributes:
        device: The device.
        n_threads: CPU threads.
        n_parameters: Weights, each counted once.
        n_items: Training items.
        n_steps: Steps of the whole run.
        batch_size: Items per step.
        timed: Seconds per step by the batch size timed, medians; if the recipe's own is not among them, `step_seconds`
            is drawn from the two that are.
        step_seconds: Seconds per step.
        n_evaluations: How often all splits are evaluated.
        evaluation_seconds: Seconds of one evaluation, from the time of its first queries.
        flops_per_step: Additions and multiplications in the matrix products of one step.
    """

    device: str
    n_threads: int
    n_parameters: int
    n_items: int
    n_steps: int
    batch_size: int
    timed: dict[int, float]
    step_seconds: float
    n_evaluations: int
    evaluation_seconds: float
    flops_per_step: float

    @property
    def total_seconds(self) -> float:
        """Seconds of all steps and evaluations."""
        return self.n_steps * self.step_seconds + self.n_evaluations * self.evaluation_seconds


def estimate_cost(recipe: Recipe, *, device: str = "auto", seconds: float = 20.0) -> TrainingCost:
    """Time a few steps of a recipe, and reckon from them what the whole run takes.

    Args:
        recipe: From `load_recipe`.
        device: "auto" or a torch device.
        seconds: About how long to time, building the task and compiling not counted.

    Returns:
        The cost. What `train` would refuse is an InputError here, too.
    """
    where, prepared = resolve_device(device), prepare(recipe)
    recipe, task, parent = prepared.recipe, prepared.task, prepared.parent
    training, n_items = recipe.training, len(task.training)
    batch_size = n_items if training.batch_size == "full" else training.batch_size
    with cpu_threads(training.n_threads):
        learner = Learner(recipe, task, where, parent)
        timed = _time_steps(learner, batch_size, seconds=0.8 * seconds)
        counted = _counted(learner, batch_size, timed)
        flops = learner.count_flops(_rows(counted, learner)) * batch_size / counted
        evaluation_seconds = _time_evaluation(learner, task, seconds=0.2 * seconds)
    n_points = recipe.evaluation.steps(training.n_steps) | recipe.checkpoints.steps(training.n_steps)
    return TrainingCost(
        device=str(where),
        n_threads=training.n_threads,
        n_parameters=sum(weight.numel() for weight in learner.net.parameters()),
        n_items=n_items,
        n_steps=training.n_steps,
        batch_size=batch_size,
        timed=timed,
        step_seconds=line_at(batch_size, timed),
        n_evaluations=1 + len(n_points),
        evaluation_seconds=evaluation_seconds,
        flops_per_step=flops,
    )


def duration(seconds: float) -> str:
    """A time in words, two digits of it.

    >>> duration(0.0042), duration(95.0), duration(7e4), duration(8.64e6)
    ('4.2 ms', '1.6 min', '19 h', '100 days')
    """
    unit, length = next((unit, length) for unit, length, most in _UNITS if seconds < most)
    amount = seconds / length
    return f"{amount:.2g} {unit}" if amount < 10 else f"{amount:,.0f} {unit}"


def line_at(size: int, timed: dict[int, float]) -> float:
    """Seconds at a size: as timed, or on the line through the two sizes timed, never below the larger one's.

    >>> line_at(8, {8: 3.0}), line_at(8, {2: 1.0, 4: 2.0}), line_at(8, {2: 2.0, 4: 1.5})
    (3.0, 4.0, 1.5)
    """
    if size in timed:
        return timed[size]
    small, large = sorted(timed)
    slope = (timed[large] - timed[small]) / (large - small)
    return max(timed[large] + slope * (size - large), timed[large])


def _time_steps(learner: Learner, batch_size: int, *, seconds: float) -> dict[int, float]:
    """Seconds per step at the batch size if that can be had in the time, else at two smaller ones."""
    rows = cache(partial(_rows, learner=learner))

    def step_on(size: int) -> None:
        learner.step_on(rows(size), 0)

    def median_at(size: int, seconds: float) -> float:
        return _median_seconds(lambda: step_on(size), seconds=seconds, device=learner.device)

    if learner.recipe.training.compile:
        return {batch_size: median_at(batch_size, seconds)}  # another size would be compiled anew
    largest = _largest_affordable(step_on, batch_size, seconds=seconds / 2, device=learner.device)
    if largest == batch_size:
        return {batch_size: median_at(batch_size, seconds / 2)}
    return {size: median_at(size, seconds / 4) for size in (max(1, largest // _GROWTH), largest)}


def _time_evaluation(learner: Learner, task: Task, *, seconds: float) -> float:
    """Seconds for all queries of an evaluation, from those of its first ones."""
    training = learner.recipe.training
    asked = evaluated_queries(task)
    options = {"loss": training.loss, "loss_dtype": getattr(torch, training.loss_dtype)}

    def forward(size: int) -> None:
        read_queries(learner.net, asked, size, **options, batch_size=LARGEST_EVALUATED)

    most = min(LARGEST_EVALUATED, len(asked))
    with in_eval_mode(learner.net):
        size = _largest_affordable(forward, most, seconds=seconds / 2, device=learner.device)
        found = _median_seconds(lambda: forward(size), seconds=seconds / 2, device=learner.device)
    return found / size * len(asked)


def _largest_affordable(action: Callable[[int], object], most: int, *, seconds: float, device: torch.device) -> int:
    """The largest size, at most `most`, at which a few calls are expected to take no longer than that in all."""
    size = min(_SMALLEST, most)
    action(size)
    while size < most:
        larger = min(_GROWTH * size, most)
        expected = _seconds(partial(action, size), device) * larger / size
        if larger > _ALWAYS_TRIED and expected * (1 + _MIN_TIMED) > seconds:
            break
        size = larger
    return size


def _counted(learner: Learner, batch_size: int, timed: Mapping[int, float]) -> int:
    """Items whose products are counted: enough to share what those of a step share; a few where nothing is shared."""
    if learner.inputs is not None:
        return batch_size
    return max(timed) if learner.prefix_tree is not None else min(_SMALLEST, batch_size)


def _rows(size: int, learner: Learner) -> torch.Tensor | None:
    """Training items as a step draws them, None for a batch of all; how much they share is a part of the cost."""
    n_items = len(learner.items[0])
    if learner.batches is None and size == n_items:
        return None
    return BatchStream(seed=0, n_items=n_items, batch_size=size, device=learner.device).rows(0)


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, until the device has done its work."""
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _median_seconds(action: Callable[[], object], *, seconds: float, device: torch.device) -> float:
    """Middle one of the durations of a few calls, after one that is not counted."""
    _seconds(action, device)
    durations: list[float] = []
    while len(durations) < _MIN_TIMED or (len(durations) < _MAX_TIMED and sum(durations) < seconds):
        durations.append(_seconds(action, device))
    return statistics.median(durations)
