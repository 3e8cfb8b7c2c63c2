"""Paired benchmarks of training steps: each asserts equal results, then tells how many times as long the peer takes.

Each runs on the device that it is given; compiled steps, in float64 too, go through what is timed.
"""

from functools import partial
from pathlib import Path

import torch
from matrix_products import matrix_products_of
from native_training import SETTINGS, NativeTraining
from paired_timing import Ratio, paired_ratio
from peer_process import PeerProcess
from torch.utils.flop_counter import FlopCounterMode

from circuit_lab.training import load_recipe
from circuit_lab.training.learner import Learner
from circuit_lab.training.prepared import prepare
from circuit_lab.training.stacked_learner import StackedLearner

RECIPES = Path(__file__).parents[2] / "analyses" / "recipes"
EXACT = ('training.dtype="float64"', 'training.loss_dtype="float64"', 'training.precision="float32"')
PLAIN = ("training.compile=false", "training.cuda_graphs=false", 'training.precision="float32"')
COMPILED = ("training.compile=true",)
GRAPHED = ("training.compile=true", "training.cuda_graphs=true")
ONE_GROUP = ("optimizer.weight_decay=0.0",)
"""One group of parameters, which is as easily said in plain torch."""
SMALL_STACK = ("task.train_share=0.022",)


def full_batch_step() -> Ratio:
    """Ten steps of the small modular recipe, with equal inputs looked up and without."""

    def both(*overrides: str) -> tuple[Learner, Learner]:
        (ours,), (plain,) = learners("modular-small", 1, overrides), learners("modular-small", 1, overrides)
        plain.inputs = None  # a cached property: what is set stays
        return ours, plain

    _assert_equal_after_steps(*both(*EXACT))
    ours, plain = both()
    return paired_ratio(partial(steps, ours), partial(steps, plain), n_pairs=15)


def grokking_demo_steps(device: str = "cpu", settings: tuple[str, ...] = PLAIN) -> Ratio:
    """Three steps of the published modular net; in float64 both have the same losses."""
    (ours,) = learners("modular-paper", 1, (*settings, *ONE_GROUP, *EXACT), device)
    with PeerProcess(ours) as theirs:
        expected = theirs.steps(10)
    torch.testing.assert_close([float(ours.step(step)) for step in range(10)], expected, atol=1e-9, rtol=0)
    (ours,) = learners("modular-paper", 1, (*settings, *ONE_GROUP), device)
    with PeerProcess(ours) as theirs:
        return paired_ratio(partial(steps, ours, 3), partial(theirs.steps, 3), n_pairs=9)


def share_of_products() -> Ratio:
    """Three steps of the published modular net, against their matrix products alone."""
    (ours,) = learners("modular-paper", 1, (*PLAIN, *ONE_GROUP))
    products = matrix_products_of(partial(steps, ours, 3))
    with FlopCounterMode(display=False) as counter:
        products()
    assert counter.get_total_flops() == 3 * ours.count_flops(None)
    return paired_ratio(partial(steps, ours, 3), products, n_pairs=9)


def native_steps(batch_size: int, device: str = "cpu", settings: tuple[str, ...] = ()) -> Ratio:
    """Ten steps of the small net of four blocks; in float64 both reach the same losses."""

    def both(*overrides: str) -> tuple[Learner, NativeTraining]:
        wanted = (*SETTINGS, f"training.batch_size={batch_size}", *settings, *overrides)
        (ours,) = learners("standard-small", 1, wanted, device)
        return ours, NativeTraining(ours)

    ours, theirs = both(*EXACT)
    for step in range(10):
        torch.testing.assert_close(ours.step(step), theirs.step(step), atol=1e-9, rtol=0)
    ours, theirs = both()
    return paired_ratio(partial(steps, ours), partial(steps, theirs), n_pairs=15)


def stacked_steps(recipe: str, overrides: tuple[str, ...] = (), device: str = "cpu", n_seeds: int = 8) -> Ratio:
    """Ten steps of some seeds: stacked, and one net after the other."""
    exact = (*overrides, *EXACT)
    stack = StackedLearner(learners(recipe, n_seeds, exact, device))
    _assert_equal_after_steps(stack, *learners(recipe, n_seeds, exact, device))
    stack = StackedLearner(learners(recipe, n_seeds, overrides, device))
    singles = learners(recipe, n_seeds, overrides, device)

    def one_by_one() -> None:
        for learner in singles:
            steps(learner)

    return paired_ratio(partial(steps, stack), one_by_one, n_pairs=9)


def learners(recipe: str, n: int, overrides: tuple[str, ...] = (), device: str = "cpu") -> list[Learner]:
    """Learners of the seeds 0..n-1, before their first step."""
    path, made = RECIPES / f"{recipe}.toml", []
    for seed in range(n):
        seeds = [f"task.seed={seed}", f"net.init_seed={seed}", f"training.seed={seed}"]
        prepared = prepare(load_recipe(path, [*overrides, *seeds]))
        made.append(Learner(prepared.recipe, prepared.task, torch.device(device), None))
    return made


def steps(learner: Learner | StackedLearner | NativeTraining, n: int = 10) -> None:
    """The first steps of a learner."""
    for step in range(n):
        learner.step(step)


def _assert_equal_after_steps(one: Learner | StackedLearner, *others: Learner) -> None:
    """In float64, for AdamW scales rounding up; the bias of attention's keys is rounding alone: its gradient is 0."""
    members = one.learners if isinstance(one, StackedLearner) else [one]
    for learner in (one, *others):
        steps(learner)
    for mine, its in zip(members, others, strict=True):
        for (name, weight), expected in zip(mine.net.named_parameters(), its.net.parameters(), strict=True):
            if not name.endswith("b_K"):
                torch.testing.assert_close(weight, expected, atol=1e-9, rtol=1e-9)
