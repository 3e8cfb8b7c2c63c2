"""How cost grows with entities, sites, queries and seeds: slopes of log seconds over log size.

Each curve is timed in rounds over all its sizes, on one thread: what else the machine does falls on all of them.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from analysis_ratios import NET, pairs_with_another_h
from paired_timing import seconds, threads
from scipy.stats import linregress, t
from training_ratios import learners, steps

from circuit_lab import diagnose, reference_model
from circuit_lab.measures import QueryPairs, activation_patching
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import Task, TwoHopConfig, build_task
from circuit_lab.training import split_scores
from circuit_lab.training.stacked_learner import StackedLearner

N_ROUNDS = 5


@dataclass(frozen=True)
class Slope:
    """Exponent of a power law through the medians.

    Attributes:
        value: The slope; 1 where twice the size takes twice as long.
        low: Lower end of its 95 % interval, by Student's t over the sizes.
        high: Upper end.
        growth: How many times as long the largest size takes as the smallest.
    """

    value: float
    low: float
    high: float
    growth: float


@dataclass(frozen=True)
class Curve:
    """Work of several sizes.

    Attributes:
        work: What is done.
        of: What the sizes count.
        sizes: The sizes, ascending.
        work_of: The work of one size; what it needs is made beforehand.
        most: The slope that is promised not to be exceeded.
    """

    work: str
    of: str
    sizes: tuple[int, ...]
    work_of: Callable[[int], Callable[[], object]]
    most: float

    def measure(self, n_rounds: int = N_ROUNDS) -> Slope:
        """Time every size in every round, after one round that is not counted."""
        works = [self.work_of(size) for size in self.sizes]
        with threads(1):
            rounds = [[seconds(work) for work in works] for _ in range(n_rounds + 1)][1:]
        return slope_of(self.sizes, [statistics.median(of_size) for of_size in zip(*rounds, strict=True)])


def slope_of(sizes: Sequence[int], medians: Sequence[float]) -> Slope:
    """The slope through medians.

    >>> found = slope_of([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    >>> round(found.value, 6), round(found.low, 6), found.growth
    (2.0, 2.0, 64.0)
    """
    fit = linregress([math.log(size) for size in sizes], [math.log(median) for median in medians])
    margin = float(t.ppf(0.975, len(sizes) - 2)) * float(fit.stderr)
    slope = float(fit.slope)
    return Slope(slope, slope - margin, slope + margin, medians[-1] / medians[0])


def _small_task(n_entities: int) -> Task:
    shape = {"n_relations": 10, "out_degree": 5, "ood_share": 0.2}
    return build_task(TwoHopConfig(n_entities=n_entities, regime="natural", **shape))


def _small_net(task: Task, n_layers: int = 4):
    sizes = {"d_model": 64, "n_heads": 4, "d_mlp": 256, "d_vocab": task.d_vocab, "n_ctx": task.n_ctx}
    return build_net(SharedTransformerConfig(layer_map=(0,) * n_layers, **sizes)).eval()


def step_with_entities(n: int) -> Callable[[], object]:
    """Ten steps of the small two-hop recipe, batch 128."""
    (learner,) = learners("universal-small", 1, (f"task.n_entities={n}",))
    return partial(steps, learner)


def evaluation_with_entities(n: int) -> Callable[[], object]:
    """Accuracy and loss of every split."""
    task = _small_task(n)
    return partial(split_scores, _small_net(task), task)


def diagnosis_with_entities(n: int) -> Callable[[], object]:
    """Of an untrained net, on which every test is run, too."""
    task = _small_task(n)
    return partial(diagnose, (_small_net(task), task))


def patch_grid_with_layers(n: int) -> Callable[[], object]:
    """The grid of a net of so many layers, three positions each, on 256 pairs."""
    return partial(activation_patching, _small_net(reference_model(NET).task, n), _pairs(256), kind="resid_pre")


def patch_grid_with_queries(n: int) -> Callable[[], object]:
    """The grid of four layers and three positions."""
    return partial(activation_patching, reference_model(NET).net, _pairs(n), kind="resid_pre")


def stacked_step_with_seeds(n: int) -> Callable[[], object]:
    """Ten steps of a stack of small two-hop nets, batch 128."""
    return partial(steps, StackedLearner(learners("universal-small", n)))


def _pairs(n: int) -> QueryPairs:
    pairs = pairs_with_another_h()
    rows = torch.arange(n) % len(pairs)
    return QueryPairs(pairs.clean[rows], pairs.corrupt[rows], "h")


CURVES = {
    "step, entities": Curve(
        "training step, small two-hop net, batch 128", "entities", (25, 50, 100, 200, 400), step_with_entities, 0.6
    ),
    "evaluation, entities": Curve(
        "accuracy and loss of every split, small two-hop net",
        "entities, and queries with them",
        (50, 100, 200, 400, 800),
        evaluation_with_entities,
        1.3,
    ),
    "diagnosis, entities": Curve(
        "diagnosis of an untrained small net of four layers",
        "entities, and queries with them",
        (50, 100, 200, 400, 800),
        diagnosis_with_entities,
        1.3,
    ),
    "patch grid, sites": Curve(
        "residual-stream patch grid, 256 pairs",
        "sites: 2 to 32 layers at three positions",
        (2, 4, 8, 16, 32),
        patch_grid_with_layers,
        2.1,
    ),
    "patch grid, queries": Curve(
        "residual-stream patch grid, four layers", "pairs", (250, 500, 1000, 2000, 4000), patch_grid_with_queries, 1.2
    ),
    "stacked step, seeds": Curve(
        "training step of a stack of small two-hop nets, batch 128",
        "seeds",
        (1, 2, 4, 8, 16),
        stacked_step_with_seeds,
        1.2,
    ),
}
