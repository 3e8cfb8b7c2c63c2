"""Modular controls of every family of the calibration, their split forgotten: none without a circuit is called one."""

from collections import defaultdict

import pytest

from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.verdict import Verdict, diagnose
from circuit_lab.verdict.calibration.modular_controls import modular_controls

PER_FAMILY = 3


def some_of_each_family():
    """The first few of each family whose verdict is known and not near a threshold."""
    families = defaultdict(list)
    for control in modular_controls():
        if control.scored and control.truth is not None:
            families[control.family].append(control)
    return [control for members in families.values() for control in members[:PER_FAMILY]]


def verdicts_without_split(*, are_circuits):
    controls = [c for c in some_of_each_family() if (c.truth == Verdict.TRUE_CIRCUIT) is are_circuits]
    return {control.name: verdict_without_split(control) for control in controls}


def verdict_without_split(control):
    net, task = control.build()
    settings = task.config.model_dump(exclude={"train_share", "n_train", "train_pairs", "seed"}) | {"split": "unknown"}
    return diagnose((net, build_task(ModularConfig(**settings)))).verdict


@pytest.mark.slow
def test_no_impostor_is_called_a_circuit():
    called = verdicts_without_split(are_circuits=False)
    assert len(called) >= 20
    assert {name: verdict for name, verdict in called.items() if verdict != Verdict.INCONCLUSIVE} == {}


@pytest.mark.slow
def test_circuits_are_still_called_one():
    called = verdicts_without_split(are_circuits=True)
    assert len(called) >= 9
    assert {name: verdict for name, verdict in called.items() if verdict != Verdict.TRUE_CIRCUIT} == {}
