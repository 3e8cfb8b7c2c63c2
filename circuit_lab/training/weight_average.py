"""An exponential moving average of a net's weights, and putting it into the net for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """`average <- decay * average + (1 - decay) * weight` after every step, from the initial weights on.

    It has no correction for its start: with a decay of 0.999 the first thousand steps still hold much of the initial
    weights. A weight that does not change keeps its average bit by bit.

    Attributes:
        tensors: The average of every weight, by the weight's first name.

    Args:
        net: The net; its weights now are the first average.
        decay: In (0, 1); the average is over about the last 1 / (1 - decay) steps.
    """

    def __init__(self, net: nn.Module, *, decay: float) -> None:
        self._move = get_ema_multi_avg_fn(decay)
        self._weights = dict(net.named_parameters())
        self.tensors = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        self._move(list(self.tensors.values()), list(self._weights.values()), None)

    @contextmanager
    def in_the_net(self) -> Iterator[None]:
        """The net has the averaged weights inside, and the trained ones again after, bit by bit."""
        with torch.no_grad():
            trained = {name: weight.clone() for name, weight in self._weights.items()}
            for name, weight in self._weights.items():
                weight.copy_(self.tensors[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(trained[name])
