"""The matrix products of some work, alone: what it would take if all else were free."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS:
            product = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}.get(func, func)
            self.calls.append((product, tuple(part.detach().clone() for part in args[-2:])))
        return func(*args, **(kwargs or {}))


def matrix_products_of(work: Callable[[], object]) -> Callable[[], None]:
    """The matrix products that a call makes, forward and backward, as work of their own, on copies of their factors.

    Copies of dense factors keep the strides, which a product's time hangs on. Of a product plus a bias, the product.
    """
    with _Recorder() as recorder:
        work()
    calls = recorder.calls

    def repeat() -> None:
        for product, factors in calls:
            product(*factors)

    return repeat
