"""Sweeps: many runs from one file, trained in stacks, here or on a cluster, with one table of results."""

from circuit_lab.sweeps.backends import BACKENDS
from circuit_lab.sweeps.fleet import train_fleet
from circuit_lab.sweeps.plan import SweepRun, load_sweep
from circuit_lab.sweeps.results import read_results, results_frame
from circuit_lab.sweeps.sweep import Sweep, run_sweep

__all__ = [
    "BACKENDS",
    "Sweep",
    "SweepRun",
    "load_sweep",
    "read_results",
    "results_frame",
    "run_sweep",
    "train_fleet",
]
