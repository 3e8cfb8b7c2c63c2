"""Which controls a calibration runs, and how: the whole of it, or a balanced part in a minute."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from circuit_lab.verdict.calibration.controls import Control
from circuit_lab.verdict.calibration.modular_controls import modular_controls
from circuit_lab.verdict.calibration.perturbed_controls import noisy_controls, rotated_controls
from circuit_lab.verdict.calibration.runner import Trial
from circuit_lab.verdict.calibration.two_hop_controls import two_hop_controls
from circuit_lab.verdict.calibration.untrained_controls import untrained_controls
from circuit_lab.verdict.settings import Settings

QUERY_LIMITS = (20, 50, 100, 200)
"""Queries per split at which the verdicts are read again."""
_QUICK_PER_FAMILY = 2
_QUICK_NOISE = (0.05,)
_QUICK_LIMITS = (50,)


def wired_controls() -> tuple[Control, ...]:
    """Every net wired by hand, unperturbed."""
    return (*two_hop_controls(), *modular_controls())


def all_trials(*, seed: int = 0, trained: Sequence[Control] = ()) -> tuple[Trial, ...]:
    """The whole calibration.

    Args:
        seed: Seed of every diagnosis.
        trained: Further controls, whose nets were trained.

    Returns:
        Wired, untrained and trained controls, rotated and noisy ones, and some with fewer queries.
    """
    wired, untrained = wired_controls(), tuple(untrained_controls())
    examples = tuple(_first_of_each_family(wired, 2, whole=True))
    no_norm = [control for control in untrained if control.family == "two_hop/untrained_no_norm"]
    controls = [
        *wired,
        *untrained,
        *trained,
        *rotated_controls([*_first_of_each_family(wired, 3, whole=False), *no_norm[:3]]),
        *noisy_controls(examples),
    ]
    return _trials(controls, examples, QUERY_LIMITS, seed)


def quick_trials(*, seed: int = 0, trained: Sequence[Control] = ()) -> tuple[Trial, ...]:
    """A part of the calibration with every family in it, for a check in a minute.

    Args:
        seed: Seed of every diagnosis.
        trained: Further controls, whose nets were trained.

    Returns:
        Two controls of each family; one of each rotated, noisy and with fewer queries where it is whole.
    """
    wired = wired_controls()
    everything = [*wired, *untrained_controls(), *trained]
    examples = tuple(_first_of_each_family(wired, 1, whole=True))
    controls = [
        *_first_of_each_family(everything, _QUICK_PER_FAMILY, whole=False),
        *rotated_controls(examples),
        *noisy_controls(examples, levels=_QUICK_NOISE),
    ]
    return _trials(controls, examples, _QUICK_LIMITS, seed)


def _trials(
    controls: Iterable[Control], examples: Iterable[Control], limits: Sequence[int], seed: int
) -> tuple[Trial, ...]:
    settings = Settings(seed=seed)
    with_all_queries = [Trial(control, settings) for control in controls]
    with_fewer = [
        Trial(control, replace(settings, max_queries_per_split=limit)) for control in examples for limit in limits
    ]
    return (*with_all_queries, *with_fewer)


def _first_of_each_family(controls: Iterable[Control], n: int, *, whole: bool) -> Iterator[Control]:
    """The first n scored controls of each family; `whole` leaves out mixtures, whose share is part of their name."""
    seen: defaultdict[str, int] = defaultdict(int)
    for control in controls:
        if control.truth is None or not control.scored or (whole and _is_mixture(control)):
            continue
        seen[control.family] += 1
        if seen[control.family] <= n:
            yield control


def _is_mixture(control: Control) -> bool:
    return "share=" in control.name or "accuracy=" in control.name
