"""Which device a net runs on, whether it can hold the net's numbers there, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from circuit_lab.errors import InputError

NET_DTYPES = (torch.float32, torch.float64)
"""What a net's weights may be."""


def resolve_device(device: str) -> torch.device:
    """The torch device that a name means.

    Args:
        device: "auto", or a torch device.

    Returns:
        The device.

    Raises:
        InputError: If there is no such device on this machine.
    """
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    names = [name for name, n in counts.items() if n > 0]
    if device == "auto":
        return torch.device(names[0])
    numbered = [f"{name}:{index}" for name in names for index in range(counts[name])]
    if device not in names + numbered:
        listed = names + [place for place in numbered if place.startswith("cuda")]
        raise InputError(f"device {device!r} is not available; this machine has: auto, {', '.join(listed)}")
    return torch.device(device)


@contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """Torch computes with `n` threads of the CPU inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_dtype(dtype: torch.dtype, device: torch.device, *, place: str) -> None:
    """A net's weights must be of a type that nets have, and that the device can hold.

    Args:
        dtype: Type of the weights.
        device: Where the net goes.
        place: Whose weights they are, for messages.

    Raises:
        InputError: If it is not.
    """
    if dtype not in NET_DTYPES:
        allowed = " or ".join(_name(each) for each in NET_DTYPES)
        raise InputError(f"{place}: weights of type {_name(dtype)} are not supported; convert them to {allowed}")
    if device.type == "mps" and dtype == torch.float64:
        raise InputError(f'{place}: its weights are float64, which mps does not have; use device="cpu"')


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
