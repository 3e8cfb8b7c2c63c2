"""Perturbed controls: another control's net with noise on its weights, or in a rotated basis.

A rotation of the residual stream's basis changes no answer and no mechanism, so the truth stays. Noise spoils answers
as it grows, so that the verdict of the untouched net need no longer be right: a noisy control has no truth of its own,
and is compared with the untouched net's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from zlib import crc32

import torch

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.nets.controls.perturb import rotated, with_noise
from circuit_lab.tasks import Task
from circuit_lab.verdict.calibration.controls import Control, Perturbation

NOISE_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Standard deviations of the noise, as shares of each matrix's own."""


def rotated_controls(controls: Iterable[Control]) -> Iterator[Control]:
    """Each control once more, in a randomly rotated basis of the residual stream; none of their nets may have norms."""
    for control in controls:
        yield replace(
            control,
            name=f"{control.name}/rotated",
            mechanism=f"{control.mechanism} In a rotated basis.",
            kind="perturbed",
            build=partial(_rotate, control),
            perturbation=Perturbation(of=control.name, how="rotation"),
        )


def noisy_controls(controls: Iterable[Control], *, levels: Iterable[float] = NOISE_LEVELS) -> Iterator[Control]:
    """Each control once more at every level of noise."""
    levels = tuple(levels)
    for control in controls:
        for std_share in levels:
            yield replace(
                control,
                name=f"{control.name}/noise={std_share}",
                mechanism=f"{control.mechanism} With noise of {std_share} of each matrix's standard deviation.",
                truth=None,
                kind="perturbed",
                build=partial(_add_noise, control, std_share),
                scored=False,
                perturbation=Perturbation(of=control.name, how="noise", std_share=std_share),
            )


def _generator(name: str) -> torch.Generator:
    """A generator of its own for each control, the same on every machine."""
    return torch.Generator().manual_seed(crc32(name.encode()))


def _rotate(control: Control) -> tuple[HookedSharedTransformer, Task]:
    net, task = control.build()
    return rotated(net, generator=_generator(control.name)), task


def _add_noise(control: Control, std_share: float) -> tuple[HookedSharedTransformer, Task]:
    net, task = control.build()
    return with_noise(net, std_share=std_share, generator=_generator(f"{control.name} {std_share}")), task
