"""Which queries with one OOD fact join the training set.

The rule of [He]: over the OOD facts that occur as hop 1 (or hop 2) of `test_ood`,

1. take a share `ratio` of them, rounded up;
2. for each, add up to `samples_per_fact` queries that pair it with ID facts on the other hop.

The other hop is ID, so an added query is never in `train_inferred` nor added by the other hop's augmentation.
For a given seed, a larger ratio or count adds to what a smaller one adds.
"""

import numpy as np
from jaxtyping import Int, UInt64

from circuit_lab.tasks.fact_graph import FactGraph
from circuit_lab.tasks.stable_random import Purpose, permutation, raw_draws, rounded_share
from circuit_lab.tasks.two_hop_config import Augmentation

_FACT_PURPOSES = (Purpose.HOP1_FACTS, Purpose.HOP2_FACTS)
_PARTNER_PURPOSES = (Purpose.HOP1_PARTNERS, Purpose.HOP2_PARTNERS)


def augmentation_rows(
    graph: FactGraph, augmentation: Augmentation, *, hop: int, seed: int
) -> Int[np.ndarray, " n_added"]:
    """The compositions that augmenting one hop adds to the training set.

    Args:
        graph: The facts and their compositions.
        augmentation: Share of the facts and queries for each.
        hop: 0 to augment OOD facts as hop 1, 1 as hop 2.
        seed: Fixes which facts and which partners.

    Returns:
        Rows of `graph.pairs`, ascending.
    """
    test_ood = graph.pairs[graph.pair_rows(hop1_ood=True, hop2_ood=True)]
    eligible = np.unique(test_ood[:, hop])
    order = permutation(len(eligible), seed=seed, purpose=_FACT_PURPOSES[hop])
    augmented = eligible[order[: rounded_share(augmentation.ratio, len(eligible))]]
    candidates = graph.pair_rows(hop1_ood=hop == 0, hop2_ood=hop == 1)
    draws = raw_draws(len(candidates), seed=seed, purpose=_PARTNER_PURPOSES[hop])
    is_augmented = np.zeros(len(graph.facts), dtype=bool)
    is_augmented[augmented] = True
    is_wanted = is_augmented[graph.pairs[candidates, hop]]
    candidates, draws = candidates[is_wanted], draws[is_wanted]
    rank = rank_within_group(graph.pairs[candidates, hop], draws)
    return candidates[rank < augmentation.samples_per_fact]


def rank_within_group(group: Int[np.ndarray, " n"], draws: UInt64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Place of each item among the items of its group when these are sorted by draw, from 0.

    >>> rank_within_group(np.array([7, 5, 7, 7]), np.array([9, 1, 4, 6], dtype=np.uint64)).tolist()
    [2, 0, 0, 1]
    """
    order = np.lexsort((draws, group))
    sorted_group = group[order]
    first_of_group = np.searchsorted(sorted_group, sorted_group, side="left")
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - first_of_group
    return rank
