"""Two ways of doing one piece of work, timed in turn in one process."""

import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ratio:
    """How many times as long the peer took, over paired runs.

    Attributes:
        median: Median of the ratios.
        low: Smallest ratio.
        high: Largest ratio.
        n_pairs: Paired runs.
    """

    median: float
    low: float
    high: float
    n_pairs: int


@contextmanager
def threads(n: int):
    """Run with `n` threads, as many as were set before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes, until a GPU has done its work, too."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired_ratio(
    ours: Callable[[], object], peer: Callable[[], object], *, n_pairs: int = 7, peer_share: float = 1.0
) -> Ratio:
    """Time both in turn, after one untimed run of each, with one thread.

    `peer_share` is the share of our work that the peer's run did: where it would take hours it is timed on a part.
    """
    with threads(1):
        ours(), peer()
        ratios = [seconds(peer) / peer_share / seconds(ours) for _ in range(n_pairs)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), n_pairs)
