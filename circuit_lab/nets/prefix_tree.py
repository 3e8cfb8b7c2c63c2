"""The beginnings of queries, each once.

In a causal net the state at a position depends on the tokens up to it alone. Queries that begin alike, such as all
two-hop queries of one entity, share the states of their common beginning, so a batch needs each of them once; and none
after the answer position.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

MOST_SHARED_POSITIONS = 6
"""Longest queries whose common beginnings are computed once; for longer ones, looking up states costs too much."""


@dataclass(frozen=True)
class Prefixes:
    """A batch of queries as its distinct prefixes.

    Attributes:
        token: Last token of each prefix.
        position: Its position.
        ancestors: The prefixes of each prefix, one per position; the prefix itself where it has ended.
        ended: Where it has ended.
        query: The prefix at whose end each query is answered.
    """

    token: Int[Tensor, " prefixes"]
    position: Int[Tensor, " prefixes"]
    ancestors: Int[Tensor, "prefixes pos"]
    ended: Bool[Tensor, "prefixes pos"]
    query: Int[Tensor, " n"]


class PrefixTree:
    """All prefixes of some queries.

    Args:
        tokens: Token ids.
        answer_position: Where each query is answered.

    >>> tree = PrefixTree(torch.tensor([[4, 5, 6], [4, 5, 7], [4, 6, 0]]), torch.tensor([2, 2, 1]))
    >>> batch = tree.prefixes_of(torch.tensor([0, 1]))
    >>> batch.token.tolist(), batch.position.tolist(), batch.query.tolist()
    ([4, 5, 6, 7], [0, 1, 2, 2], [2, 3])
    >>> batch.ancestors[-1].tolist()
    [0, 1, 3]
    """

    def __init__(self, tokens: Int[Tensor, "n pos"], answer_position: Int[Tensor, " n"]) -> None:
        n, pos = tokens.shape
        of_item = torch.empty_like(tokens)
        d_vocab = int(tokens.max()) + 1 if n else 1
        shorter = torch.zeros(n, dtype=torch.long, device=tokens.device)
        last_tokens, n_prefixes = [], 0
        for position in range(pos):
            found, which = torch.unique(shorter * d_vocab + tokens[:, position], return_inverse=True)
            shorter = of_item[:, position] = which + n_prefixes
            last_tokens.append(found % d_vocab)
            n_prefixes += len(found)
        self._token = torch.cat(last_tokens)
        self._position = torch.cat([torch.full_like(each, place) for place, each in enumerate(last_tokens)])
        self._ancestors = torch.zeros(n_prefixes, pos, dtype=torch.long, device=tokens.device)
        places = torch.arange(pos, device=tokens.device)
        for position in range(pos):
            self._ancestors[of_item[:, position]] = of_item[:, places.clamp(max=position)]
        self._ended = places > self._position[:, None]
        self._answered_at = of_item.gather(1, answer_position[:, None]).squeeze(1)
        self._needed = self._ancestors[self._answered_at]

    def prefixes_of(self, rows: Int[Tensor, " n"]) -> Prefixes:
        """The prefixes of a batch of these queries.

        Args:
            rows: Which queries; some may occur several times.

        Returns:
            The prefixes up to their answer positions, the shorter ones first.
        """
        needed = torch.unique(self._needed[rows])
        return Prefixes(
            token=self._token[needed],
            position=self._position[needed],
            ancestors=torch.searchsorted(needed, self._ancestors[needed]),
            ended=self._ended[needed],
            query=torch.searchsorted(needed, self._answered_at[rows]),
        )
