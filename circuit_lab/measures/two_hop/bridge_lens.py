"""Bridge recovery through the logit lens (Wang et al. 2024, arXiv 2405.15071; He et al. 2026, arXiv 2601.09049).

1. Read every lens site, in a recursive net those of both streams, at every token position through the final norm (if
   any) and the unembedding.
2. For the bridge entity b and for the answer t: is it the top token; its reciprocal rank; its probability.
3. *Resolve depth*: the first stage at which a token is on top, of b at any position before the answer's, of t at the
   answer's. In a two-hop circuit b resolves before t.
4. `bridge_found` (He et al.): b is on top at *any* stage and position.

These readings corroborate and never decide. A bridge can be decodable and unused, or used and not decodable. And in
a causal net `bridge_found` is trivially 1 once the atomic facts are memorised: the state at r1's position *is* the
answer to the atomic query (h, r1).
"""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuit_lab.measures.hooked_model import n_prefix
from circuit_lab.measures.metrics import ranks_of
from circuit_lab.measures.result import Result
from circuit_lab.nets import HookedNet, queries_at_once
from circuit_lab.tasks import Queries

BRIDGE_FOUND_CAVEAT = (
    "bridge_found is shown for comparison with the paper only: in a causal net it is 1 as soon as the atomic facts are "
    "memorised, because the state at r1's position is the answer to the atomic query (h, r1)"
)


@dataclass(frozen=True, eq=False)
class BridgeRecovery(Result):
    """What the lens reads of the bridge and of the answer, averaged over queries.

    Attributes:
        stages: Labels of the lens sites, input to output.
        position_names: Names of the positions.
        bridge_top1: Share of queries whose top token is the bridge, in [0, 1].
        bridge_mrr: Mean reciprocal rank of the bridge, in (0, 1]; 1 = always on top.
        bridge_probability: Mean probability of the bridge, in [0, 1].
        answer_top1: The same of the answer.
        answer_mrr: The same of the answer.
        answer_probability: The same of the answer.
        bridge_found: Share of queries whose bridge is the top token at any stage and position (see the caveat).
        bridge_first: Share of queries whose bridge is on top, before the answer's position, at an earlier stage than
            the one at which the answer is first on top at its position.
        found: Per query, whether its bridge is the top token at any stage and position: `bridge_found` is their share.
        n: Queries read.
        chance: Top-1 rate of a guess among the vocabulary, 1 / d_vocab.
    """

    stages: tuple[str, ...]
    position_names: tuple[str, ...]
    bridge_top1: Float[Tensor, "n_stages n_ctx"]
    bridge_mrr: Float[Tensor, "n_stages n_ctx"]
    bridge_probability: Float[Tensor, "n_stages n_ctx"]
    answer_top1: Float[Tensor, "n_stages n_ctx"]
    answer_mrr: Float[Tensor, "n_stages n_ctx"]
    answer_probability: Float[Tensor, "n_stages n_ctx"]
    bridge_found: float
    bridge_first: float
    found: Bool[Tensor, " n"]
    n: int
    chance: float

    def frame(self) -> pd.DataFrame:
        """One row per stage, position and target (bridge or answer): top1, mrr, probability, n."""
        rows = [
            {
                "stage": stage,
                "position": position,
                "target": target,
                "top1": float(getattr(self, f"{target}_top1")[i, j]),
                "mrr": float(getattr(self, f"{target}_mrr")[i, j]),
                "probability": float(getattr(self, f"{target}_probability")[i, j]),
                "n": self.n,
            }
            for target in ("bridge", "answer")
            for i, stage in enumerate(self.stages)
            for j, position in enumerate(self.position_names)
        ]
        return pd.DataFrame(rows)


@torch.no_grad()
def bridge_recovery(net: HookedNet, queries: Queries, *, batch_size: int = 2048) -> BridgeRecovery:
    """Read the bridge and the answer at every lens site and position.

    Args:
        net: A hooked net that declares lens sites.
        queries: Two-hop queries, at least one.
        batch_size: Queries per forward pass at most; wide nets take fewer.

    Returns:
        Averages over the queries.

    Raises:
        ValueError: If there are no queries, or they have no bridge.
    """
    if len(queries) == 0 or "bridge" not in queries.intermediates:
        raise ValueError(
            f"bridge recovery needs two-hop queries; got {len(queries)} with "
            f"intermediates {sorted(queries.intermediates)}"
        )
    cached = len(net.lens_sites) * (n_prefix(net) + queries.tokens.shape[1]) * net.cfg.d_model
    size = queries_at_once(net, queries.tokens.shape[1], at_most=batch_size, cached=cached)
    readings = [_read(net, queries[start : start + size]) for start in range(0, len(queries), size)]
    rank = torch.cat([rank for rank, _ in readings])
    probability = torch.cat([probability for _, probability in readings])
    top1, reciprocal = (rank == 1).float(), 1.0 / rank
    bridge_on_top = top1[:, 0].bool()
    position, n_ctx = queries.answer_position, top1.shape[-1]
    answer_on_top = top1[torch.arange(len(queries)), 1, :, position].bool()
    before_answer = (torch.arange(n_ctx) < position[:, None])[:, None]
    found = bridge_on_top.any(-1).any(-1)
    return BridgeRecovery(
        stages=tuple(site.label for site in net.lens_sites),
        position_names=queries.position_names,
        bridge_top1=top1[:, 0].mean(0),
        bridge_mrr=reciprocal[:, 0].mean(0),
        bridge_probability=probability[:, 0].mean(0),
        answer_top1=top1[:, 1].mean(0),
        answer_mrr=reciprocal[:, 1].mean(0),
        answer_probability=probability[:, 1].mean(0),
        bridge_found=float(found.float().mean()),
        bridge_first=float(_resolves_first((bridge_on_top & before_answer).any(-1), answer_on_top).float().mean()),
        found=found,
        n=len(queries),
        chance=1.0 / net.cfg.d_vocab,
    )


def _resolves_first(bridge_on_top: Tensor, answer_on_top: Tensor) -> Tensor:
    """Queries [n] whose bridge is on top at an earlier stage [n, n_stages] than the answer, which resolves too."""
    never = bridge_on_top.shape[1]
    stage = torch.arange(never)
    bridge_depth = torch.where(bridge_on_top, stage, never).min(-1).values
    answer_depth = torch.where(answer_on_top, stage, never).min(-1).values
    return (bridge_depth < answer_depth) & (answer_depth < never)


def _read(
    net: HookedNet, queries: Queries
) -> tuple[Int[Tensor, "n 2 n_stages n_ctx"], Float[Tensor, "n 2 n_stages n_ctx"]]:
    """Rank (see `ranks_of`) and probability of (bridge, answer) at every stage and position."""
    hook_names = [site.hook_name for site in net.lens_sites]
    _, cache = net.run_with_cache(queries.tokens, names_filter=lambda name: name in hook_names)
    targets = torch.stack([queries.intermediates["bridge"], queries.answer], dim=1).to(net.device)
    ranks, probabilities = [], []
    for name in hook_names:
        logits = net.logits_at(cache[name][:, n_prefix(net) :])
        index = targets[:, :, None].expand(-1, -1, logits.shape[1])
        expanded = logits[:, None].expand(-1, 2, -1, -1)
        ranks.append(ranks_of(expanded, index))
        of_target = expanded.gather(-1, index[..., None]).squeeze(-1)
        probabilities.append((of_target - logits.logsumexp(-1)[:, None]).exp())
    return torch.stack(ranks, dim=2).cpu(), torch.stack(probabilities, dim=2).cpu()
