"""What a study is made of: training runs, tidy measurements, and claims that a number decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuit_lab.studies.lab import Lab

COLUMNS = ("condition", "step", "split", "quantity", "value", "n", "low", "high")
"""What every measurement says; a study may add columns, and the framework adds `seed`."""


@dataclass(frozen=True)
class StudyRun:
    """One training run, which several studies may share: it is named by what it is, not by who asks for it.

    Attributes:
        net: Whose base recipe is used: `analyses/recipes/<net>-<scale>.toml`.
        name: What it is, such as "universal/natural"; with the seed, its folder below that of the scale.
        seed: Seed of task, initial weights and batches. A run with a parent keeps the parent's task and net, so the
            seed is that of its batches.
        settings: Settings of the recipe to change, by dotted key; a whole table where the base's does not fit, such as
            `{"task": {"kind": ...}}`.
        steps: Length, as a multiple of the base recipe's, so that it grows with the scale.
        parent: The run whose last checkpoint it starts from.
    """

    net: str
    name: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: float = 1.0
    parent: StudyRun | None = None

    @property
    def place(self) -> str:
        """Its folder below that of the scale.

        >>> StudyRun("universal", "universal/natural", 2).place
        'universal/natural/seed=2'
        """
        return f"{self.name}/seed={self.seed}"

    @property
    def generation(self) -> int:
        """How many runs come before it: 0 without a parent."""
        return 0 if self.parent is None else 1 + self.parent.generation


@dataclass(frozen=True)
class Bound:
    """Values from `low` to `high`, both included."""

    low: float = -inf
    high: float = inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        """In words.

        >>> str(Bound(low=0.5)), str(Bound(high=2.0)), str(Bound(0.1, 0.9))
        ('at least 0.5', 'at most 2', 'from 0.1 to 0.9')
        """
        if self.high == inf:
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if self.low == -inf else f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Claim:
    """A published statement, and the number that decides whether it holds here.

    Attributes:
        name: Its name in tables.
        published: What the paper says, with the place.
        quantity: What the number is, with unit and range.
        holds_if: Numbers that agree with the statement.
        value: The number of one seed, from that seed's measurements; nan where they cannot tell.
        chance: The number to be expected of no effect; None where there is no such number.
    """

    name: str
    published: str
    quantity: str
    holds_if: Bound
    value: Callable[[pd.DataFrame], float]
    chance: float | None = None


@dataclass(frozen=True)
class Study:
    """Runs, measurements and claims.

    Attributes:
        name: That of its folder in `analyses/`.
        title: One line.
        claims: What it decides.
        runs: The training runs of one seed; parents come along by themselves.
        measure: What is measured on the finished runs of one seed: rows with the columns of `COLUMNS`.
        figures: Name -> figure of all seeds' measurements.
    """

    name: str
    title: str
    claims: tuple[Claim, ...]
    runs: Callable[[int], Sequence[StudyRun]]
    measure: Callable[[Lab, int], pd.DataFrame]
    figures: Mapping[str, Callable[[pd.DataFrame], go.Figure]]
