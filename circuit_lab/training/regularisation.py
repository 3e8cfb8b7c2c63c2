"""What keeps weights small besides decoupled decay: penalties in the loss, or a norm that does not change."""

from collections.abc import Iterable

import torch
from torch import Tensor


def add_penalty_gradient(gradient: Tensor, weight: Tensor, *, l1: float | Tensor, l2: float | Tensor) -> None:
    """Add the gradient of `l1 * sum |w| + l2 / 2 * sum w^2` to a gradient, in place.

    Args:
        gradient: Of the loss without the penalties.
        weight: The weight, or a stack of weights.
        l1: Coefficient, or one per weight of the stack, shaped to be multiplied with it.
        l2: Likewise.

    >>> weight, gradient = torch.tensor([2.0, -3.0, 0.0]), torch.zeros(3)
    >>> add_penalty_gradient(gradient, weight, l1=0.5, l2=0.1)
    >>> gradient
    tensor([ 0.7000, -0.8000,  0.0000])
    """
    gradient.add_(l1 * weight.sign() + l2 * weight)


def norm_of(weights: Iterable[Tensor]) -> Tensor:
    """Euclidean norm over all numbers of some weights.

    >>> norm_of([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])])
    tensor(5.)
    """
    return torch.stack([weight.detach().square().sum() for weight in weights]).sum().sqrt()
