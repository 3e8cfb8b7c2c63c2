"""Accounts for every tensor of a foreign file: taken, ignored for a stated reason, or an error."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from circuit_lab.errors import InputError

_MAX_NAMED = 5
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def first_few(names: Sequence[str], n: int = _MAX_NAMED) -> str:
    """Names in a row, cut short.

    Args:
        names: The names.
        n: How many are named.

    Returns:
        The first, and how many more there are.

    >>> first_few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more


class Ledger:
    """The tensors of one foreign file, each to be taken or ignored, and what was inferred on the way.

    Args:
        tensors: By name, as the file has them.
        place: The file and the part of it, for messages.
        layout: The layout they should be in, for messages, such as "legacy TransformerLens".
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, place: str, layout: str) -> None:
        self.tensors, self.place, self.layout = dict(tensors), place, layout
        self.inferred: list[str] = []
        self.ignored: list[str] = []
        self._accounted: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, which is not thereby accounted for.

        Args:
            name: Its name.

        Returns:
            The shape.

        Raises:
            InputError: If there is no such tensor; names the nearest one.
        """
        if name not in self.tensors:
            raise InputError(
                f"{self.place}: {name} is missing, so this is no whole {self.layout} net"
                f"{self._nearest(name, self.tensors)}"
            )
        return tuple(self.tensors[name].shape)

    def take(self, name: str, *axes: tuple[str, int]) -> Tensor:
        """A tensor whose axes must have these sizes.

        Args:
            name: Its name.
            *axes: Name and size of each axis, such as ("d_model", 128).

        Returns:
            The tensor, as the file has it.

        Raises:
            InputError: If it is missing or of another shape.
        """
        shape, expected = self.shape(name), tuple(size for _, size in axes)
        if shape != expected:
            words = ", ".join(f"{axis} = {size}" for axis, size in axes)
            turned = "; it looks transposed" if sorted(shape) == sorted(expected) else ""
            raise InputError(f"{self.place}: {name} must be [{words}], got {list(shape)}{turned}")
        self._accounted.add(name)
        return self.tensors[name]

    def ignore(self, names: Iterable[str], reason: str) -> None:
        """Leave tensors out of the net, and say why.

        Args:
            names: Their names; none is fine, and says nothing.
            reason: Why they do not change the logits.
        """
        names = sorted(names)
        self._accounted.update(names)
        if names:
            self.ignored.append(f"{first_few(names)}: {reason}")

    def in_one_dtype(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A net's weights in the one type that all of them can be in without loss.

        Args:
            weights: By name.

        Returns:
            All in float64 if one is, else in float32; contiguous, on the CPU, without history.

        Raises:
            InputError: If one holds no floating-point numbers, or of a type that nets do not have.
        """
        for name, weight in weights.items():
            if weight.dtype not in _FLOATS:
                raise InputError(
                    f"{self.place}: {name} is of {weight.dtype}, which no net has; convert it to torch.float32"
                )
        found = {weight.dtype for weight in weights.values()}
        dtype = torch.float64 if torch.float64 in found else torch.float32
        if found != {dtype}:
            names = ", ".join(sorted(str(each).removeprefix("torch.") for each in found))
            self.infer(f"dtype = {str(dtype).removeprefix('torch.')}", f"the file has {names}")
        return {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()}

    def infer(self, what: str, why: str) -> None:
        """Note something that the file does not say in so many words.

        Args:
            what: The setting and its value, such as "n_heads = 4".
            why: What it was read off, such as "first axis of blocks.0.attn.W_Q".
        """
        self.inferred.append(f"{what} ({why})")

    def close(self, *, known: Iterable[str] = ()) -> None:
        """Refuse the file if a tensor is neither taken nor ignored.

        Args:
            known: Names that this layout has, to find the nearest match of a stranger among; those taken, by default.

        Raises:
            InputError: Names the strangers, and the nearest match of the first.
        """
        strangers = sorted(self.tensors.keys() - self._accounted)
        if not strangers:
            return
        listed = first_few([f"{name} {list(self.tensors[name].shape)}" for name in strangers])
        raise InputError(
            f"{self.place}: {listed} is not part of the {self.layout} layout"
            f"{self._nearest(strangers[0], [*known, *self._accounted])}"
        )

    def _nearest(self, name: str, among: Iterable[str]) -> str:
        nearest = get_close_matches(name, list(among), n=1, cutoff=0.6)
        return f"; the nearest name to {name} is {nearest[0]}" if nearest else ""
