"""A sweep from its file to its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from circuit_lab.sweeps.fleet import train_fleet
from circuit_lab.sweeps.plan import SweepRun, load_sweep
from circuit_lab.sweeps.results import results_frame, write_results
from circuit_lab.training import TrainingInterrupted


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep that was run.

    Attributes:
        runs: Its runs.
        results: What they have scored; see `results_frame`.
        path: The parquet file of the results.
        problems: Run name -> what is wrong, for runs that could not be trained.
    """

    runs: tuple[SweepRun, ...]
    results: pd.DataFrame
    path: Path
    problems: Mapping[str, str]


def run_sweep(
    path: str | Path,
    out: str | Path,
    *,
    n_jobs: int = 1,
    stack_size: int | None = None,
    backend: str = "loky",
    address: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Sweep:
    """Train every run of a sweep file, or go on with it, and put the results together.

    Args:
        path: A sweep file; see `circuit_lab.sweeps.plan`.
        out: The sweep's folder, one run folder below it for each run. A file with more values goes on in it: what is
            finished stays.
        n_jobs: Processes, or workers of a cluster that is started here.
        stack_size: Runs of one architecture trained at once; by default 1 on a CPU and 32 on a GPU.
        backend: "loky" (processes here), "ray" or "dask".
        address: Of a running cluster.
        device: As in `train`.
        progress: Whether to show a bar over the whole, with the time left.

    Returns:
        Runs, results and problems; the table is on disk before it is returned, also when Ctrl-C stops the training.

    Raises:
        TrainingInterrupted: After Ctrl-C, when all is saved.

    What is wrong with the file or the backend is an InputError before anything is trained.
    """
    runs, folder = load_sweep(path), Path(out)
    recipes = {folder / run.name: run.recipe for run in runs}
    try:
        problems = train_fleet(
            recipes,
            n_jobs=n_jobs,
            stack_size=stack_size,
            backend=backend,
            address=address,
            device=device,
            progress=progress,
        )
    except TrainingInterrupted:
        write_results(results_frame(runs, folder), folder)
        raise
    results = results_frame(runs, folder)
    named = {str(place.relative_to(folder)): problem for place, problem in problems.items()}
    return Sweep(runs, results, write_results(results, folder), named)
