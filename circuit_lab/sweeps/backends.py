"""Where calls run: joblib on processes of this machine, or on a Ray or Dask cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, TypeVar

from circuit_lab.errors import InputError

_MODULES = {"loky": "joblib", "ray": "ray", "dask": "distributed"}
BACKENDS = tuple(_MODULES)
"""Processes of this machine, or a cluster whose machines share a file system."""
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


def on_workers(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    *,
    n_jobs: int,
    backend: str,
    address: str | None = None,
) -> list[T]:
    """Call a function once for each of `calls`, several at a time.

    Args:
        function: Must be importable where it runs.
        calls: The arguments of each call.
        n_jobs: Processes, or workers of a cluster that is started here.
        backend: One of `BACKENDS`.
        address: Of a running cluster, all of which is used.

    Returns:
        What each call returned, in order.

    A cluster that cannot be reached is an InputError.
    """
    from joblib import Parallel, delayed, parallel_config

    threads = {"inner_max_num_threads": 1} if backend == "loky" else {}
    with (
        _cluster(backend, n_jobs, address),
        parallel_config(backend=backend, n_jobs=n_jobs if address is None else -1, **threads),
    ):
        found: Any = Parallel()(delayed(function)(*arguments) for arguments in calls)
    return list(found)


def _cluster(backend: str, n_jobs: int, address: str | None) -> AbstractContextManager[None]:
    """A cluster that joblib uses inside: the one at an address, or one of `n_jobs` workers on this machine."""
    if backend == "ray":
        return _ray(n_jobs, address)
    return _dask(n_jobs, address) if backend == "dask" else nullcontext()


@contextmanager
def _ray(n_jobs: int, address: str | None) -> Iterator[None]:
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
    from distributed import Client, LocalCluster

    if address is None:
        with LocalCluster(n_workers=n_jobs, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
            yield
        return
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise _unreachable("dask", address, error) from error
    with client:
        yield


def _unreachable(backend: str, address: str | None, error: Exception) -> InputError:
    where = "on this machine" if address is None else f"at {address!r}"
    return InputError(f"no {backend} cluster {where}: {' '.join(str(error).split())}")
