"""What a run costs: time by checkpoint, memory whatever their number, and what a kept diagnosis saves."""

import pytest
from own_process import run_alone
from small_runs import MODULAR, TWO_HOP, train_run

from circuit_lab.training import checkpoint_path, load_checkpoint, save_checkpoint

SECONDS_FOR_100_CHECKPOINTS = 180
"""On one thread, for nets of the trained controls' size; a memorising state costs most, for no site ends the search."""
MAX_GROWTH_MEGABYTES = 40
"""From the 10th checkpoint to the last: far less than a net or a diagnosis for each would take."""

_DIAGNOSE = """
import sys, time
import psutil
from circuit_lab.training import checkpoint_path, load_checkpoint, save_checkpoint
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.runs import diagnose as module
from circuit_lab.verdict.runs import diagnose_run

resident, made = [], []

def counting(checkpoint, **settings):
    found = diagnose(checkpoint, **settings)
    resident.append(psutil.Process().memory_info().rss)
    made.append(checkpoint.step)
    return found

module.diagnose = counting
times = []
for _ in range(2):
    start = time.perf_counter()
    found = diagnose_run(sys.argv[1], progress=False)
    times.append(time.perf_counter() - start)
once = len(made)
last = load_checkpoint(found.verdicts[-1].checkpoint)
step = last.step + 1
save_checkpoint(checkpoint_path(last.path.parent.parent, step), net=last.net, task=last.task, step=step, metrics={})
diagnose_run(sys.argv[1], progress=False)
result = {"times": times, "resident": resident, "once": once, "more": len(made) - once, "n": len(found.verdicts)}
"""

_MODULAR = {
    "task": {"p": 23},
    "net": {"d_model": 48, "n_heads": 4, "d_mlp": 128},
    "training": {"n_steps": 300},
    "evaluation": {"every": 100},
    "checkpoints": {"every": 3},
}
_TWO_HOP = {
    "task": {"regime": "both_full"},
    "net": {"layer_map": [0, 0, 0], "d_model": 48, "n_heads": 4, "d_mlp": 192, "init_std": 0.02},
    "training": {"n_steps": 720, "batch_size": 128},
    "evaluation": {"every": 360},
    "checkpoints": {"every": 720},
}


def train_modular(folder):
    return train_run(MODULAR, folder, **_MODULAR)


def repeat_two_hop(folder):
    """One state at 24 steps: what a diagnosis of its own takes differs by 100 MB with what a net has learnt."""
    run = train_run(TWO_HOP, folder, **_TWO_HOP)
    last = load_checkpoint(checkpoint_path(run, 720))
    for step in range(720 - 23, 720):
        save_checkpoint(checkpoint_path(run, step), net=last.net, task=last.task, step=step, metrics={})
    return run


@pytest.mark.benchmark
@pytest.mark.parametrize(("make", "n"), [(train_modular, 100), (repeat_two_hop, 24)])
def test_a_hundred_small_checkpoints_take_minutes_and_the_memory_of_one(make, n, tmp_path):
    _, measured = run_alone(_DIAGNOSE, str(make(tmp_path / "run")))
    assert (measured["n"], measured["once"], measured["more"]) == (n, n, 1)
    first, again = measured["times"]
    assert first / n < SECONDS_FOR_100_CHECKPOINTS / 100, f"{first / n:.2f} s for each checkpoint"
    assert again < first / 4
    growth = (measured["resident"][n - 1] - measured["resident"][9]) / 1e6
    assert growth < MAX_GROWTH_MEGABYTES, f"{growth:.0f} MB from the 10th to the last checkpoint"
