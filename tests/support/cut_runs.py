"""Training cut off at a chosen step, as by a pulled plug: nothing of the run is told to stop."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from circuit_lab.training.learner import Learner


class PlugPulledError(Exception):
    """No error that training knows."""


@contextmanager
def cut_at(stop: int, *, learner: type = Learner) -> Iterator[None]:
    """Let whatever trains in this block end before it takes step `stop`; the test fails if nothing gets there."""
    real = learner.step

    def step_or_fail(self, step):
        if step == stop:
            raise PlugPulledError
        return real(self, step)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(PlugPulledError):
        patched.setattr(learner, "step", step_or_fail)
        yield
