"""How many queries are worked on at once: as many as fit into a fixed part of the memory, however wide the net."""

from circuit_lab.nets.registry import HookedNet

PASS_BYTES = 2**30
"""What the activations of one forward pass may take up."""
STATES_BYTES = 3 * 2**30
"""What states that are kept between passes may take up."""
_ACTIVATIONS_AT_ONCE = 4
"""Activations of the widest kind that a forward pass without gradients holds at the same time."""


def queries_at_once(net: HookedNet, n_pos: int, *, at_most: int, cached: int = 0) -> int:
    """Queries of one forward pass without gradients.

    Args:
        net: The net.
        n_pos: Token positions of each.
        at_most: Their largest number.
        cached: Numbers per query that the pass is to keep, such as the states of all layers.

    Returns:
        Their number, at least 1, for which activations take up `PASS_BYTES` at most, by the net's config.
    """
    return _that_fit(net, _ACTIVATIONS_AT_ONCE * net.cfg.widest_activation(n_pos) + cached, PASS_BYTES, at_most)


def queries_kept(net: HookedNet, *, at_most: int, numbers: int) -> int:
    """Queries whose states are kept at the same time.

    Args:
        net: The net.
        at_most: Their largest number.
        numbers: Numbers that are kept of each.

    Returns:
        Their number, at least 1, for which these take up `STATES_BYTES` at most.
    """
    return _that_fit(net, numbers, STATES_BYTES, at_most)


def _that_fit(net: HookedNet, numbers: int, n_bytes: int, at_most: int) -> int:
    return max(1, min(at_most, n_bytes // (max(1, numbers) * net.dtype.itemsize)))
