"""A limit on the size of a net that a file from elsewhere describes."""

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class WeightAllowance(TorchFunctionMode):
    """Refuses to make more numbers than the weights in a file justify, before they take memory.

    Args:
        n: How many numbers a net that is built inside may have.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.left = n, n

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what `torch.zeros` makes: with it nets make their weights."""
        if func is torch.zeros:
            shape = args if isinstance(args[0], int) else args[0]
            self.left -= math.prod(shape)
            if self.left < 0:
                raise ValueError(f"its net config asks for more than {self.n:,} weights, far more than the file holds")
        return func(*args, **(kwargs or {}))
