"""Where calls run: joblib on processes of this machine, or on a Ray or Dask cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from typing import Any, TypeVar

from circuit_lab.errors import InputError
from circuit_lab.training.loop import noted_signals

_MODULES = {"loky": "joblib", "ray": "ray", "dask": "distributed"}
BACKENDS = tuple(_MODULES)
"""Processes of this machine, or a cluster whose machines share a file system."""
_SECONDS_BETWEEN_LOOKS = 0.3
T = TypeVar("T")


def check_backend(backend: str, *, address: str | None) -> None:
    """Refuse a backend that is unknown or not installed, and an address of none.

    Args:
        backend: What was asked for.
        address: Of a cluster, if one was given.

    Raises:
        InputError: Says which there are, or what to install.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; the backends are: {', '.join(BACKENDS)}")
    if backend == "loky" and address is not None:
        raise InputError(f"address {address!r} needs a cluster's backend: ray or dask, not loky")
    if find_spec(_MODULES[backend]) is None:
        raise InputError(f"backend {backend!r} is not installed; pip install 'circuit-lab[cluster]'")


def on_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], *, n_jobs: int
) -> tuple[list[T], int | None]:
    """Call a function once for each of `calls`, on processes of this machine.

    A first SIGINT or SIGTERM is passed on to the processes, which may end their calls as they see fit, and no further
    call begins. (joblib by itself would kill them.)

    Args:
        function: Must be importable there.
        calls: The arguments of each call.
        n_jobs: Processes.

    Returns:
        What each finished call returned, as they finished; and the signal, if any came.
    """
    from joblib import Parallel, delayed, parallel_config

    with noted_signals() as stopped_by, parallel_config(backend="loky", inner_max_num_threads=1):

        def waiting() -> Iterator[Any]:
            for arguments in calls:
                if stopped_by() is not None:
                    return
                yield delayed(function)(*arguments)

        with _passed_on(stopped_by):
            # Calls are handed out one by one, so that none waits in a queue which a signal would not stop.
            parallel: Any = Parallel(n_jobs=n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs")
            return list(parallel(waiting())), stopped_by()


@contextmanager
def _passed_on(stopped_by: Callable[[], int | None]) -> Iterator[None]:
    """A signal that this process gets inside is sent on to joblib's processes, again and again, lest one misses it."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            processes = multiprocessing.active_children() if stopped_by() is not None else []
            for process in processes:
                if process.name.startswith("Loky") and process.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def on_cluster(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], *, n_jobs: int, backend: str, address: str | None
) -> list[T]:
    """Call a function once for each of `calls`, on the workers of a cluster.

    Args:
        function: Must be importable there.
        calls: The arguments of each call.
        n_jobs: Workers of a cluster that is started on this machine if there is no address.
        backend: "ray" or "dask".
        address: Of a running cluster, all of which is used.

    Returns:
        What each call returned, in order.

    A cluster that cannot be reached is an InputError.
    """
    from joblib import Parallel, delayed, parallel_config

    cluster = _ray(n_jobs, address) if backend == "ray" else _dask(n_jobs, address)
    with cluster, parallel_config(backend=backend, n_jobs=n_jobs if address is None else -1):
        found: Any = Parallel()(delayed(function)(*arguments) for arguments in calls)
    return list(found)


@contextmanager
def _ray(n_jobs: int, address: str | None) -> Iterator[None]:
    """A Ray cluster that joblib uses inside."""
    import ray
    from ray.util.joblib import register_ray

    n_cpus = n_jobs if address is None else None
    try:
        ray.init(address=address, num_cpus=n_cpus, log_to_driver=False, include_dashboard=False)
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError
        raise _unreachable("ray", address, error) from error
    try:
        register_ray()
        yield
    finally:
        ray.shutdown()


@contextmanager
def _dask(n_jobs: int, address: str | None) -> Iterator[None]:
    """A Dask cluster that joblib uses inside."""
    from distributed import Client, LocalCluster

    started: AbstractContextManager[Any] = nullcontext(address)
    if address is None:
        started = LocalCluster(n_workers=n_jobs, threads_per_worker=1, dashboard_address=":0")
    with started as cluster:
        try:
            client = Client(cluster)
        except (OSError, ValueError) as error:
            raise _unreachable("dask", address, error) from error
        with client:
            yield


def _unreachable(backend: str, address: str | None, error: Exception) -> InputError:
    where = "on this machine" if address is None else f"at {address!r}"
    return InputError(f"no {backend} cluster {where}: {' '.join(str(error).split())}")
