"""Nets asked in eval mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from circuit_lab.nets.registry import HookedNet


@contextmanager
def in_eval_mode(*nets: HookedNet) -> Iterator[None]:
    """Nets in `eval` mode, and back in `train` mode at the end where they were; the others are left alone.

    To tell every module of a small net its mode takes as long as to ask it a hundred queries.
    """
    training = [net for net in nets if net.training]
    for net in training:
        net.eval()
    try:
        yield
    finally:
        for net in training:
            net.train()
