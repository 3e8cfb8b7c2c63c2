"""Sites of the residual stream: where a state is read, cached and patched.

A *site* is (stage, set of positions). A *stage* is a lens site of the net, named by its label: `embed` or
`resid_post k`, the residual stream after effective layer k. In a causal net the bridge entity sits at r1's position
alone; in other architectures it may sit at several positions together, hence the set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_lab.nets import HookedSharedTransformer, find_lens_site
from circuit_lab.tasks import Queries


@dataclass(frozen=True, order=True)
class Site:
    """Where a state is patched: a stage of the net and the positions replaced there."""

    stage: str
    positions: tuple[int, ...]

    def label(self, position_names: Sequence[str]) -> str:
        """A name people read, such as `resid_post 0 @ r1`.

        >>> Site("resid_post 0", (0, 1)).label(("h", "r1", "r2"))
        'resid_post 0 @ h+r1'
        """
        return f"{self.stage} @ {'+'.join(position_names[p] for p in self.positions)}"


def position_sets(n_ctx: int) -> list[tuple[int, ...]]:
    """Every proper, non-empty set of positions, smallest first.

    The set of all positions is left out: replacing the whole state asks nothing but the source query.

    >>> position_sets(3)
    [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    """
    return [subset for size in range(1, n_ctx) for subset in combinations(range(n_ctx), size)]


def inner_stages(net: HookedSharedTransformer) -> list[str]:
    """Labels of the stages where an intermediate value can be patched.

    Without the embedding, where a transplant only swaps input tokens, and without the last stage, which no layer reads.
    """
    return [site.label for site in net.lens_sites[1:-1]]


@torch.no_grad()
def residual_states(
    net: HookedSharedTransformer, tokens: Int[Tensor, "n n_ctx"], *, stage: str, batch_size: int = 4096
) -> Float[Tensor, "n n_ctx d_model"]:
    """The residual stream of each query at one stage.

    Args:
        net: A hooked net.
        tokens: Token ids.
        stage: Label of a lens site.
        batch_size: Queries per forward pass; bounds memory.

    Returns:
        States on the net's device.
    """
    name = find_lens_site(net.lens_sites, stage).hook_name
    states = []
    for batch in tokens.split(batch_size):
        _, cache = net.run_with_cache(batch, names_filter=name)
        states.append(cache[name])
    if not states:
        return torch.zeros(0, tokens.shape[1], net.cfg.d_model, dtype=net.dtype, device=net.device)
    return torch.cat(states)


@torch.no_grad()
def predicted_answers(net: HookedSharedTransformer, queries: Queries, *, batch_size: int = 4096) -> Int[Tensor, " n"]:
    """The net's top token at each query's answer position, on the CPU."""
    top = [
        net(tokens, answer_only=True, answer_position=position).argmax(-1).cpu()
        for tokens, position in zip(
            queries.tokens.split(batch_size), queries.answer_position.split(batch_size), strict=True
        )
    ]
    return torch.cat(top) if top else torch.zeros(0, dtype=torch.long)


def known_good(net: HookedSharedTransformer, queries: Queries, *, batch_size: int = 4096) -> Queries:
    """The queries that the net answers right: the only ones fit to be partners in a causal test."""
    return queries[predicted_answers(net, queries, batch_size=batch_size) == queries.answer]
