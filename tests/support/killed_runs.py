"""Runs in processes of their own, to be killed: forked from a server that has imported torch once, so a start is cheap.

The functions that the children run stand here, so that a child imports nothing of the tests but this file.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from safetensors import safe_open

SERVER = multiprocessing.get_context("forkserver")
# What the children find imported: `torch._dynamo` comes with the first optimiser step and takes a second; pytest is
# the main script of the parent, which multiprocessing has its children import.
SERVER.set_forkserver_preload(["circuit_lab.training", "torch._dynamo", "pytest"])
KEPT_OUT = {".lock"}
"""Files that are no part of what a run computes."""


def start(function: Any, *arguments: Any) -> BaseProcess:
    """Call a function of this module in a forked child."""
    process = SERVER.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def train_by(tables: dict[str, Any], run: str) -> None:
    """Child: train to the end."""
    import torch

    from circuit_lab.training import parse_recipe, train

    torch.set_num_threads(1)
    train(parse_recipe(tables, source="a test"), run, device="cpu", progress=False)


def hold(run: str, ready: Any) -> None:
    """Child: hold a run folder's lock until killed."""
    from circuit_lab.training.run_lock import locked

    with locked(Path(run)):
        ready.set()
        time.sleep(600)


def save_again_and_again(source: str, path: str, ready: Any) -> None:
    """Child: save a checkpoint's net under one path, with other steps and weights, until killed."""
    import torch

    from circuit_lab.training import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(source)
    for step in range(10**9):
        with torch.no_grad():
            checkpoint.net.embed.W_E.add_(0.001)
        save_checkpoint(path, net=checkpoint.net, task=checkpoint.task, step=step, metrics={"test": float(step)})
        ready.set()


def load_again_and_again(path: str, n: int, steps: Any) -> None:
    """Child: load a checkpoint n times, and tell the steps found."""
    from circuit_lab.training import load_checkpoint

    steps.put([load_checkpoint(path).step for _ in range(n)])


@dataclass(frozen=True)
class Kills:
    """Where the kills of many runs hit.

    Attributes:
        places: How many hit at each place, in words.
        n_second: How many killed a run a second time, while it resumed.
        different: Runs that ended with other files than the uninterrupted one, with what differs.
    """

    places: Counter[str]
    n_second: int
    different: list[str]

    def __str__(self) -> str:
        return f"kills: {dict(sorted(self.places.items()))}; again while resuming: {self.n_second}"


def files_of(run: Path) -> dict[str, bytes]:
    """Every file of a run folder, by its path in it."""
    found = (path for path in run.rglob("*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in found if path.name not in KEPT_OUT}


def cpu_seconds(process: BaseProcess) -> float | None:
    """Computing time of a child so far, which does not depend on how busy the machine is; None once it has ended."""
    assert process.pid is not None
    try:
        return time.clock_gettime((~process.pid << 3) | 2)  # Linux's clock of another process
    except OSError:
        return None


def duration_of(tables: dict[str, Any], folder: Path) -> float:
    """Seconds of computing that a whole run takes in a child, from start to end; the middle one of three."""
    times = []
    for index in range(3):
        process, last = start(train_by, tables, str(folder / f"timed-{index}")), 0.0
        while process.is_alive():
            last = cpu_seconds(process) or last
            time.sleep(0.002)
        assert process.exitcode == 0
        times.append(last)
    return sorted(times)[1]


def kill_and_resume(tables: dict[str, Any], folder: Path, *, n_runs: int, seed: int) -> Kills:
    """Kill runs at random instants, half of them again while they resume, then let each finish.

    Args:
        tables: The recipe.
        folder: Where the run folders go.
        n_runs: How many runs.
        seed: Fixes the instants, as shares of the computing time that a whole run takes here.
    """
    rng = random.Random(seed)
    duration = duration_of(tables, folder)
    expected = files_of(folder / "timed-0")
    places, n_second, different = Counter(), 0, []
    for index in range(n_runs):
        run = folder / f"killed-{index}"
        # One share from each of n_runs equal parts of the duration, so that the kills are spread over all of it.
        share = (index + rng.random()) / n_runs
        was_killed = _killed_after(duration * share, tables, run, rng)
        places[_place(run, tables["training"]["n_steps"]) if was_killed else "after the end"] += 1
        if rng.random() < 0.5:
            n_second += _killed_after(duration * rng.random(), tables, run, rng)
        last = start(train_by, tables, str(run))
        last.join()
        found = files_of(run)
        if last.exitcode != 0 or found != expected:
            names = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
            different.append(f"run {index} (seed {seed}, exit {last.exitcode}): {names}")
    return Kills(places, n_second, different)


def _killed_after(seconds: float, tables: dict[str, Any], run: Path, rng: random.Random) -> bool:
    """Train, killed after so many seconds of computing; whether it was not yet done."""
    process = start(train_by, tables, str(run))
    while process.is_alive() and (cpu_seconds(process) or 0.0) < seconds:
        time.sleep(0.0005)
    time.sleep(rng.random() * 0.005)  # else no kill would hit while the child waits for the disk
    assert process.pid is not None
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def _place(run: Path, n_steps: int) -> str:
    """Where a killed run stood."""
    if not (run / "run.toml").exists():
        return "before the recipe was written"
    if not (run / "resume.safetensors").exists():
        return "before the first save"
    with safe_open(run / "resume.safetensors", framework="pt") as file:
        step = json.loads(file.metadata()["circuit_lab"])["step"]
    third = ("first", "second", "last")[min(3 * step // n_steps, 2)]
    return f"between saves in the {third} third" if step < n_steps else "between the last save and the end"
