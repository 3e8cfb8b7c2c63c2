"""Training by several processes at once, each on its share of every batch: on several GPUs, or on CPUs.

A launcher (`accelerate launch`, `torchrun`) starts the processes and tells each, in its environment, which one it is:

1. All build the same learner, and know the same batch of every step. Of b items, process i of c takes the items
   i, i + c, i + 2c, ...: a share of s items, and shares differ by at most one item.
2. Each computes the gradient of its share's mean loss. The sum of s/b times these gradients is the gradient of the
   batch's mean loss, so all make the step that one process would make, up to rounding.
3. What is no gradient is done by all alike: penalties, clipping, AdamW, averaging of weights.
4. The main process alone has the run folder: it loads, evaluates and saves, while the others wait.
"""

import atexit
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from signal import SIGTERM
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed

from circuit_lab.errors import InputError, short

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_TOLD_BY_ALL = "every process that trains knows of this error"
_LONGEST_WAIT = timedelta(days=7)
"""How long a process waits for another, which may evaluate a large net meanwhile."""


class Processes:
    """The processes that train together; what one of them learns from the others.

    Every method but `share` and `weight_of_share` is called by all of them, in the same order. Where there is but one
    process, none does anything beside what its caller asks for.

    Attributes:
        index: Which one this is; 0 is the main one.
        count: How many there are.

    Args:
        index: See above.
        count: See above.
    """

    def __init__(self, index: int, count: int) -> None:
        self.index, self.count = index, count
        self._signal: int | None = None
        self._n_stopping: Tensor | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process has the run folder."""
        return self.index == 0

    def share(self, items: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "share ..."]:
        """This process's part of a batch.

        >>> [Processes(index, 2).share(torch.tensor([5, 6, 7])).tolist() for index in (0, 1)]
        [[5, 7], [6]]
        """
        return items if self.count == 1 else items[self.index :: self.count]

    def weight_of_share(self, batch_size: int) -> float:
        """This process's part of a batch, in (0, 1]; a batch with fewer items than processes is an InputError.

        >>> [Processes(index, 2).weight_of_share(5) for index in (0, 1)]
        [0.6, 0.4]
        """
        if batch_size < self.count:
            raise InputError(
                f"a batch of {batch_size} items cannot be split among {self.count} processes; start at most "
                f"{batch_size}, or train on larger batches (training.batch_size)"
            )
        return len(range(self.index, batch_size, self.count)) / batch_size

    @torch.no_grad()
    def combine(self, weights: Iterable[Tensor], loss: Float[Tensor, ""], *, weight_of_share: float) -> Tensor:
        """Replace gradients and loss of this process's share by those of the batch.

        Args:
            weights: What was trained; a weight without a gradient has none in any process.
            loss: Mean loss of the share.
            weight_of_share: The share's part of the batch.

        Returns:
            Mean loss of the batch.
        """
        if self.count == 1:
            return loss
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        stopping = torch.full_like(loss, 0.0 if self._signal is None else 1.0)
        numbers = torch.cat([*(g.flatten() for g in gradients), torch.stack([loss, stopping]).to(gradients[0].dtype)])
        numbers[:-1] *= weight_of_share
        distributed.all_reduce(numbers)
        *sums, rest = numbers.split([*(gradient.numel() for gradient in gradients), 2])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))
        batch_loss, self._n_stopping = rest.clone()  # a view would keep all the numbers in memory
        return batch_loss.to(loss.dtype)

    def agreed_stop(self, number: int | None, *, look: bool) -> int | None:
        """The signal that ends training after this step, the same step in every process.

        What a process has received is told to the others in its next step; all stop after a later one at which they
        look.

        Args:
            number: The signal that this process has received so far.
            look: Whether several processes look at what was told, which waits for the device; the same in all.

        Returns:
            A signal: this process's own if it has one; None to go on.
        """
        if self.count == 1:
            return number
        self._signal = number
        if not look or self._n_stopping is None or self._n_stopping.item() == 0:
            return None
        return SIGTERM if number is None else number

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """What fails inside on one process fails on all, so that none waits for one that is gone.

        Yields:
            None: Once.

        Raises:
            Exception: Of this process, as it came; of another, an InputError with what that one says.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except Exception as error:  # of any kind: the others wait for this process whatever it was
            self._gathered(short(error))
            error.add_note(_TOLD_BY_ALL)
            raise
        for index, problem in enumerate(self._gathered(None)):
            if problem is not None:
                error = InputError(f"process {index} of {self.count}: {problem}")
                error.add_note(_TOLD_BY_ALL)
                raise error

    def _gathered(self, problem: str | None) -> list[str | None]:
        """What went wrong in each process."""
        problems: list[str | None] = [None] * self.count
        distributed.all_gather_object(problems, problem)
        return problems

    def of_main(
        self, action: Callable[_Params, _Result], *arguments: _Params.args, **options: _Params.kwargs
    ) -> _Result:
        """What an action of the main process returns, or raises, for all.

        Args:
            action: Called in the main process only; what it returns can be pickled.
            *arguments: Its arguments.
            **options: Its keyword arguments.

        Returns:
            What it returned.
        """
        if self.count == 1:
            return action(*arguments, **options)
        results: list[Any] = [None]
        with self.as_one():
            if self.is_main:
                results = [action(*arguments, **options)]
        distributed.broadcast_object_list(results)
        return results[0]


ALONE = Processes(0, 1)
"""One process, as without a launcher."""


def own_device(device: torch.device) -> torch.device:
    """The device of this process, where each needs one of its own.

    Args:
        device: As asked for, the same in every process.

    Returns:
        The CPU for all, or each its own GPU; without a launcher, the device itself.

    Raises:
        InputError: If it cannot be one for each process.
    """
    if _n_launched() == 1 or device.type == "cpu":
        return device
    n_here, n_gpus = _from_launcher("LOCAL_WORLD_SIZE", 1), torch.cuda.device_count()
    if device.type != "cuda" or device.index is not None:
        raise InputError(f"{_n_launched()} processes cannot train on one device {str(device)!r}; choose cuda or cpu")
    if n_here > n_gpus:
        raise InputError(f"{n_here} processes need a GPU each, and this machine has {n_gpus}; start at most {n_gpus}")
    return torch.device("cuda", _from_launcher("LOCAL_RANK", 0))


def join_processes(device: torch.device) -> Processes:
    """The processes that a launcher started, connected; `ALONE` without one.

    Args:
        device: This process's own.

    Returns:
        The processes; a later call joins the same group.
    """
    if _n_launched() == 1:
        return ALONE
    # Here, for it takes a second, and one process has no use for it.
    from accelerate import PartialState
    from accelerate.utils import InitProcessGroupKwargs

    is_first = not distributed.is_initialized()
    wait = InitProcessGroupKwargs(timeout=_LONGEST_WAIT).to_kwargs()
    state = PartialState(cpu=device.type == "cpu", **wait)
    if is_first:
        atexit.register(distributed.destroy_process_group)
    return Processes(state.process_index, state.num_processes)


def refuse_launcher(what: str) -> None:
    """Refuse to do in each of many processes what is meant for one.

    Args:
        what: It, in words.

    Raises:
        InputError: If a launcher started this process beside others.
    """
    if _n_launched() > 1:
        raise InputError(
            f"{what} is for one process, and a launcher started {_n_launched()} (WORLD_SIZE in the environment); "
            "start it without the launcher"
        )


@contextmanager
def main_process_speaks() -> Iterator[None]:
    """Of the processes that a launcher started, only the main one prints inside.

    Yields:
        None: Once.

    Raises:
        InputError: Where this is another process: its own mistake, of which the main one knows nothing, in its name.
        SystemExit: Where this is another process, and the main one tells of the error.
    """
    index = _from_launcher("RANK", 0)
    if _n_launched() == 1 or index == 0:
        yield
        return
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    except (ValueError, OSError) as error:
        if _TOLD_BY_ALL in getattr(error, "__notes__", ()):
            raise SystemExit(2) from error
        raise InputError(f"process {index} of {_n_launched()}: {error}") from error


def _n_launched() -> int:
    return _from_launcher("WORLD_SIZE", 1)


def _from_launcher(name: str, default: int) -> int:
    """A number that launchers put into the environment."""
    return int(os.environ.get(name) or default)
