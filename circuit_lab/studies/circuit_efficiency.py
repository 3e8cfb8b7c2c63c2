"""Nets of modular arithmetic, pure and retrained: the runs that the studies of [Varma] (arXiv 2309.02390) share.

Sizes are shares of all pairs, so that they mean the same at every scale. In [Varma] at p = 113: ungrokking between .03
and .12 of the pairs, semi-grokking between .12 and .16. Pairs of one seed are nested.
"""

import re
from collections.abc import Mapping
from typing import Any

from circuit_lab.studies.study import StudyRun

NET = "modular"
"""The base recipe of all of them: `analyses/recipes/modular-<scale>.toml`."""
SUM = "a+b"
DECAYS = (0.6, 1.0, 1.8)
"""Weight decays; [Nanda] and [Varma] train at 1."""
DECAY = 1.0
GROKKED = 0.5
"""Share of the pairs at which nets grok in time; at .4 one may take 16,000 steps (`analyses/one_run`)."""
GENERALISED = (GROKKED, 0.65)
"""Shares at which nets are trained to generalise, all for as long."""
MEMORISED = (0.022, 0.043, 0.086, 0.172)
"""Shares with random labels: 77, 150, 299 and 599 pairs at small scale."""
RETRAINED = (0.029, 0.041, 0.057, 0.081, 0.115, 0.163, 0.23)
"""Shares that grokked nets are trained on with: geometric, by a factor of the square root of 2."""
SCRATCH = (0.115, 0.163, 0.23, 0.28, 0.325, 0.36, 0.4)
"""Shares that nets are trained on from their initial weights, up to where all grok; the first three as retrained."""
COMPONENTS = ("embedding", "attention", "mlp", "unembedding")
"""The parts of these nets that have a norm of their own; see `weight_norms`."""
RANDOM_LABELS = ("random", "random_commutative")
STEPS = 2 / 3
"""Length of most runs, as a multiple of the recipe's: 10,000 steps at small scale."""
SCRATCH_STEPS = 5 / 3
"""Length of runs that grok late, if they do: 25,000 steps at small scale."""


def trained(
    seed: int, *, share: float = GROKKED, decay: float = DECAY, operation: str = SUM, steps: float = STEPS
) -> StudyRun:
    """A net trained from its initial weights on true labels.

    Args:
        seed: Seed.
        share: Share of the pairs it is trained on.
        decay: Weight decay.
        operation: What it computes, modulo the recipe's prime.
        steps: Length, as a multiple of the recipe's.

    Returns:
        The run.
    """
    settings = {"task.operation": operation, "task.train_share": share, "optimizer.weight_decay": decay}
    return StudyRun(NET, f"modular/{operation}/share={share:g}/decay={decay:g}", seed, settings, steps=steps)


def memorising(seed: int, labels: str, *, share: float, decay: float = DECAY) -> StudyRun:
    """A net trained on random labels, which only rote can learn.

    Args:
        seed: Seed, of the labels too.
        labels: One of `RANDOM_LABELS`.
        share: Share of the pairs it is trained on.
        decay: Weight decay.

    Returns:
        The run.
    """
    settings = {"task.train_share": share, "task.labels": labels, "task.label_seed": seed}
    settings |= {"optimizer.weight_decay": decay, "checkpoints.every": 2500}
    name = f"modular/{labels}/share={share:g}/decay={decay:g}"
    return StudyRun(NET, name, seed, settings, steps=STEPS)


def retrained(seed: int, *, share: float, decay: float = DECAY, operation: str = SUM) -> StudyRun:
    """A net that had grokked, trained on with fewer of its pairs.

    Args:
        seed: Seed.
        share: Share of the pairs it is trained on with.
        decay: Weight decay, also that of its first training.
        operation: What it computes.

    Returns:
        The run.
    """
    parent = trained(seed, decay=decay, operation=operation)
    settings = {"task.train_share": share, "optimizer.weight_decay": decay, "checkpoints.every": 2500}
    name = f"retrained/{parent.name.removeprefix('modular/')}/share={share:g}"
    return StudyRun(NET, name, seed, settings, steps=STEPS, parent=parent)


def scratch(seed: int, *, share: float) -> StudyRun:
    """A net of a + b trained from its initial weights, for as long as a net takes that groks late.

    Args:
        seed: Seed.
        share: Share of the pairs it is trained on.

    Returns:
        The run.
    """
    return trained(seed, share=share, steps=SCRATCH_STEPS)


def variant(seed: int, name: str, settings: Mapping[str, Any], *, steps: float) -> StudyRun:
    """A run that differs from the others in whatever a study tries.

    Args:
        seed: Seed.
        name: What it is, in words.
        settings: Settings of the recipe to change, by dotted key.
        steps: Length, as a multiple of the recipe's.

    Returns:
        The run.

    >>> variant(0, "ablations/no decay, loss in float32", {}, steps=1.0).place
    'modular/ablations/no-decay-loss-in-float32/seed=0'
    """
    return StudyRun(NET, f"modular/{re.sub('[^a-z0-9./]+', '-', name.lower())}", seed, settings, steps=steps)
