"""What is read of one split: the net's answers, the causal tests, the outcomes and the lens."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuit_lab.measures import (
    BridgeRecovery,
    CausalTests,
    Fitness,
    LocatedSites,
    bridge_recovery,
    causal_tests,
    predicted_answers,
)
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries
from circuit_lab.verdict.two_hop.outcomes import OutcomeCounts, outcomes_of


@dataclass(frozen=True, eq=False)
class SplitReading:
    """A split's queries with the net's answers, the causal tests and the outcomes."""

    queries: Queries
    n_in_split: int
    predicted: Int[Tensor, " n"]
    tests: CausalTests
    outcomes: np.ndarray
    lens: BridgeRecovery

    @property
    def right(self) -> Bool[Tensor, " n"]:
        """Which answers are right."""
        return self.predicted == self.queries.answer

    @property
    def counts(self) -> OutcomeCounts:
        """The outcomes, counted."""
        return OutcomeCounts.of(self.outcomes, self.right)

    def frame(self) -> pd.DataFrame:
        """One row per query: tokens, bridge, answers, which tests pass at any site, the lens, outcome."""
        frame = self.queries.frame().assign(predicted=self.predicted.numpy(), right=self.right.numpy())
        for name in ("hop1", "hop2", "interchange"):
            frame[name] = getattr(self.tests, name).majority.any(0).numpy()
        return frame.assign(lens_found=self.lens.found.numpy(), outcome=self.outcomes)


@dataclass(frozen=True, eq=False)
class Partnership:
    """Who the partners of the causal tests are.

    Attributes:
        pool: Known-good training queries.
        fitness: Which of them compose at the located sites; None where no site was found, and all are taken.
        n_partners: Partners per query and test.
    """

    pool: Queries
    fitness: Fitness | None
    n_partners: int


def read_split(
    net: HookedNet,
    queries: Queries,
    n_in_split: int,
    partners: Partnership,
    located: LocatedSites,
    generator: torch.Generator,
) -> SplitReading:
    """Answer, test and read every query of a split.

    Args:
        net: The net diagnosed.
        queries: The split, or a sample of it.
        n_in_split: Queries in the whole split.
        partners: Who lends and receives states.
        located: Where the tests patch.
        generator: Draws the partners.

    Returns:
        Everything read, per query.
    """
    predicted = predicted_answers(net, queries)
    tests = causal_tests(
        net,
        queries,
        partners.pool,
        sites=located.sites,
        generator=generator,
        n_partners=partners.n_partners,
        fitness=partners.fitness,
    )
    return SplitReading(
        queries=queries,
        n_in_split=n_in_split,
        predicted=predicted,
        tests=tests,
        outcomes=outcomes_of(predicted == queries.answer, tests, sites_found=located.found),
        lens=bridge_recovery(net, queries),
    )
