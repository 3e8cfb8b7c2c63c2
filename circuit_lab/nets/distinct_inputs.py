"""The pairs of token and position that occur in a batch, each once.

The first layer's keys, values and queries depend on token and position alone. A batch of modular arithmetic has
thousands of states there but at most 2 p + 1 different ones, so a net of one layer computes each once and looks it up.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class DistinctInputs:
    """A batch of queries, as indices into its distinct pairs of token and position.

    Attributes:
        token: Token of each distinct pair.
        position: Its position.
        row: Which distinct pair stands at each position of each query.
        asked: The distinct pairs that stand at the answer position of some query.
        query: Which of `asked` stands at each query's answer position.
    """

    token: Int[Tensor, " distinct"]
    position: Int[Tensor, " distinct"]
    row: Int[Tensor, "n pos"]
    asked: Int[Tensor, " asked"]
    query: Int[Tensor, " n"]

    @property
    def saves(self) -> bool:
        """Whether every pair of an asked state with a distinct one is less to compute than every state of every query.

        By a factor of two at least, for looking up costs as well.
        """
        return 2 * len(self.token) * len(self.asked) <= self.row.numel()


def distinct_inputs(tokens: Int[Tensor, "n pos"], answer_position: Int[Tensor, " n"]) -> DistinctInputs:
    """Find what occurs in a batch.

    Args:
        tokens: Token ids.
        answer_position: Where each query is answered.

    Returns:
        Its distinct inputs, on the device of the tokens.

    >>> found = distinct_inputs(torch.tensor([[4, 5, 9], [5, 5, 9]]), torch.tensor([2, 2]))
    >>> found.token.tolist(), found.position.tolist(), found.row.tolist(), found.asked.tolist()
    ([4, 5, 5, 9], [0, 0, 1, 2], [[0, 2, 3], [1, 2, 3]], [3])
    """
    pos = tokens.shape[1]
    # One number per pair: torch finds distinct numbers much faster than distinct rows.
    pairs, row = torch.unique(tokens * pos + torch.arange(pos, device=tokens.device), return_inverse=True)
    asked, query = torch.unique(row.gather(1, answer_position[:, None]).squeeze(1), return_inverse=True)
    return DistinctInputs(token=pairs // pos, position=pairs % pos, row=row, asked=asked, query=query)
