"""Does the answer depend on the key frequencies? Ablating their subspace against random subspaces of the same rank.

A generalising circuit turns its inputs into a few characters (frequencies), and its answer too. So:

1. *Site "inputs"*: the embeddings of a and b, as functions of the group element: E <- E - P E, P the projector on the
   key characters, before anything is computed. Keeping only them: E <- mean + P E.
2. *Site "answer"*: the logits of each pair, as functions of the output's group element, as in the excluded loss of
   Nanda et al. (arXiv 2301.05217): z <- z - P z; keeping only it: z <- P z.
3. Controls: random subspaces of the same rank of the functions in the *other* characters. (With the key characters
   among them they would take a part of the circuit along, and more the smaller the group.) Where the other characters
   are fewer than the key ones, these are no choice: the subspaces are then drawn among all, and destroy what the key
   ones destroy.

What is removed are functions, not directions of the stream. Where a circuit and a table write the same frequency into
different directions, its mean direction lies between the two, and removing that leaves half of either; and where a
direction holds next to nothing of its own, such as noise, removing it takes a part of the others along.

A circuit loses its answers without the key frequencies, keeps them without a random subspace, and keeps them with
nothing else. A table of all answers fails: its spectrum is flat, so the key frequencies are nearly all there are, and
a random subspace of that rank destroys as much. A table that merely writes its answers in a few frequencies fails at
the inputs, which it reads as single tokens.

The ablation alone is not enough: pairs learnt by heart on top of grokked embeddings are addressed through the same key
frequencies and are lost with them at the inputs (measured: .65 of the training answers of an ungrokked net, and .15 at
the answer too). Their logits are not explained on held-out pairs, so a verdict asks for that too.

The projector on a character chi of dimension d is P[x, y] = d chi(x y^-1) / sum_g chi(g)^2; for a cosine it projects
on the two dimensions of cos and sin.

"Inputs" is defined where the answer is a product of a function of a and a function of b (`input_elements`): a+b, a-b,
a*b, a/b, a^2+b^2 and S5's ab.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from circuit_lab.measures.hooked_model import embedding_scale, resume_states, rows_of
from circuit_lab.measures.modular.pair_logits import answer_logits
from circuit_lab.measures.result import Result
from circuit_lab.measures.sites import predicted_answers
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import NOT_IN_GROUP, AnswerGroup, ModularTask, Queries

INPUTS, ANSWER = "inputs", "answer"
N_RANDOM = 10
_ROUNDING = 1e-5
"""What is left of the logits below this share of the largest is a rounding error of float32."""
_ANSWER_POSITION = 2
_BATCH_SIZE = 4096


@dataclass(frozen=True, eq=False)
class SiteAblation:
    """What one site's ablations do to each query.

    Attributes:
        site: `INPUTS` or `ANSWER`.
        stage: Where the functions are removed: the label of the embeddings' lens site, or "logits".
        rank: Dimensions of the functions in the key characters.
        n_dimensions: Dimensions of all functions of a group element, constants apart.
        right_without: Whether each answer is right without the key frequencies.
        right_with_only: Whether it is right with nothing else.
        right_without_random: Whether it is right without each random subspace of the same rank.
    """

    site: str
    stage: str
    rank: int
    n_dimensions: int
    right_without: Bool[Tensor, " n"]
    right_with_only: Bool[Tensor, " n"]
    right_without_random: Bool[Tensor, "n_random n"]

    @property
    def control_rate(self) -> float:
        """Mean accuracy without a random subspace, in [0, 1]."""
        return float(self.right_without_random.double().mean()) if self.right_without_random.numel() else float("nan")

    @property
    def lost(self) -> Bool[Tensor, " n"]:
        """Answers lost without the key frequencies and kept without most random subspaces."""
        return ~self.right_without & (self.right_without_random.double().mean(0) > 0.5)


@dataclass(frozen=True, eq=False)
class FrequencyAblation(Result):
    """The ablations of the key frequencies on some queries.

    Attributes:
        key_frequencies: Names of the characters removed.
        right: Whether each answer is right in the intact net.
        sites: Per site, what its ablations do.
        n_random: Random subspaces per site.
    """

    key_frequencies: tuple[str, ...]
    right: Bool[Tensor, " n"]
    sites: Mapping[str, SiteAblation]
    n_random: int

    def __getitem__(self, rows: Tensor) -> "FrequencyAblation":
        """The same on some of the queries."""
        sites = {
            name: replace(
                site,
                right_without=site.right_without[rows],
                right_with_only=site.right_with_only[rows],
                right_without_random=site.right_without_random[:, rows],
            )
            for name, site in self.sites.items()
        }
        return replace(self, right=self.right[rows], sites=sites)

    @property
    def mediated(self) -> Bool[Tensor, " n"]:
        """Right answers that are lost at every site without the key frequencies and not without random subspaces."""
        lost = torch.stack([site.lost for site in self.sites.values()]).all(0)
        return self.right & lost

    def frame(self) -> pd.DataFrame:
        """One row per site: accuracies intact, without, with only, and without random subspaces."""
        n = max(len(self.right), 1)
        return pd.DataFrame(
            {
                "site": site.site,
                "rank": site.rank,
                "n_dimensions": site.n_dimensions,
                "intact": float(self.right.sum()) / n,
                "without_key": float(site.right_without.sum()) / n,
                "with_key_only": float(site.right_with_only.sum()) / n,
                "without_random": site.control_rate,
                "n": len(self.right),
            }
            for site in self.sites.values()
        )


@torch.no_grad()
def frequency_ablation(
    net: HookedNet,
    task: ModularTask,
    queries: Queries,
    *,
    key_frequencies: Sequence[str],
    generator: torch.Generator,
    n_random: int = N_RANDOM,
) -> FrequencyAblation:
    """Answer queries without the key frequencies, with nothing else, and without random subspaces.

    Args:
        net: A hooked net.
        task: Its modular task.
        queries: The pairs to answer.
        key_frequencies: Names from `task.group.irreps`.
        generator: Draws the random subspaces.
        n_random: How many, per site.

    Returns:
        Whether each answer is right under each ablation.

    A frequency that is not the group's is a ValueError.
    """
    projector = isotypic_projector(task.group, key_frequencies)
    elements = input_elements(task)
    sites = [] if elements is None else [_at_inputs(net, task, queries, projector, elements[0], generator, n_random)]
    sites.append(_at_answer(net, task, queries, projector, generator, n_random))
    return FrequencyAblation(
        key_frequencies=tuple(key_frequencies),
        right=predicted_answers(net, queries) == queries.answer,
        sites={site.site: site for site in sites},
        n_random=n_random,
    )


def _at_inputs(
    net: HookedNet,
    task: ModularTask,
    queries: Queries,
    projector: Float64[Tensor, "order order"],
    elements: Int[Tensor, " n_elements"],
    generator: torch.Generator,
    n_random: int,
) -> SiteAblation:
    """The ablations of the embeddings of a and b; tokens that are no group element keep theirs."""
    embeddings = net.W_E.detach().cpu().double()[: task.config.n_elements]
    vectors, mean = _means_by_element(embeddings, elements, task.group)
    in_group = (elements != NOT_IN_GROUP)[:, None]
    stage = net.lens_sites[0].label
    states = resume_states(net, queries.tokens, stage=stage)

    def right(of_elements: Float64[Tensor, "order order"], *, keep: bool) -> Bool[Tensor, " n"]:
        part = (of_elements @ (vectors - mean))[elements.clamp(min=0)]
        changed = mean + part if keep else embeddings - part
        return _right_with_change(net, queries, states, torch.where(in_group, changed, embeddings) - embeddings)

    return _site_ablation(INPUTS, stage, right, projector, generator, n_random)


def _at_answer(
    net: HookedNet,
    task: ModularTask,
    queries: Queries,
    projector: Float64[Tensor, "order order"],
    generator: torch.Generator,
    n_random: int,
) -> SiteAblation:
    """The ablations of the logits; outputs that are no group element keep theirs."""
    logits = answer_logits(net, queries)
    order, of_output = task.group.order, task.group.element_of_output
    outputs = torch.nonzero(of_output != NOT_IN_GROUP).squeeze(1)
    to_element = torch.zeros(len(of_output), order, dtype=torch.float64)
    to_element[outputs, of_output[outputs]] = 1.0
    logits[:, outputs] -= logits[:, outputs].mean(1, keepdim=True)

    def right(of_elements: Float64[Tensor, "order order"], *, keep: bool) -> Bool[Tensor, " n"]:
        inside = logits @ to_element @ of_elements @ to_element.T
        left = inside if keep else logits - inside
        rounding = _ROUNDING * logits.abs().amax(-1, keepdim=True)
        return torch.where(left.abs() > rounding, left, 0.0).argmax(-1) == queries.answer

    return _site_ablation(ANSWER, "logits", right, projector, generator, n_random)


def _site_ablation(
    site: str,
    stage: str,
    right: Callable[..., Bool[Tensor, " n"]],
    projector: Float64[Tensor, "order order"],
    generator: torch.Generator,
    n_random: int,
) -> SiteAblation:
    """The ablations of one site, given which answers are right with functions removed or nothing else kept."""
    order, rank = len(projector), _rank(projector)
    varying = torch.eye(order, dtype=torch.float64) - 1 / order
    others = _basis(varying - projector if order - 1 - rank >= rank else varying)
    random = []
    for _ in range(n_random):
        draws = torch.randn(len(others), min(rank, len(others)), generator=generator, dtype=torch.float64)
        functions = torch.linalg.qr(draws).Q.T @ others
        random.append(right(functions.T @ functions, keep=False))
    without = right(projector, keep=False)
    return SiteAblation(
        site=site,
        stage=stage,
        rank=rank,
        n_dimensions=order - 1,
        right_without=without,
        right_with_only=right(projector, keep=True),
        right_without_random=torch.stack(random) if random else without.new_zeros((0, len(without))),
    )


def _rank(projector: Float64[Tensor, "order order"]) -> int:
    return round(float(projector.trace()))


def isotypic_projector(group: AnswerGroup, names: Sequence[str]) -> Float64[Tensor, "order order"]:
    """Projects functions of a group element on what they have in the named characters.

    Args:
        group: The group.
        names: Names from `group.irreps`.

    Returns:
        A symmetric matrix over the elements.

    Raises:
        ValueError: If a name is not the group's.
    """
    unknown = [name for name in names if name not in group.irreps]
    if unknown:
        raise ValueError(f"{group.name} has no frequency {unknown[0]!r}; it has: {', '.join(group.irreps)}")
    rows = [group.irreps.index(name) for name in names]
    characters = group.characters[rows]
    weights = group.dimension[rows] / characters.square().sum(1)
    return (weights @ characters)[group.product[:, group.inverse]]


def input_elements(task: ModularTask) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]] | None:
    """Group elements u(a), v(b) of each token, where the answer is a product of the two up to inverses; else None.

    A token that is no group element (0 under multiplication) is `NOT_IN_GROUP`.
    """
    tokens = torch.arange(task.config.n_elements)
    if task.config.operation in ("a+b", "a-b", "S5: ab"):
        return tokens, tokens
    if task.config.operation in ("a*b", "a/b"):
        return task.group.element_of_output, task.group.element_of_output
    if task.config.operation == "a^2+b^2":
        return tokens**2 % task.config.n_elements, tokens**2 % task.config.n_elements
    return None


def _means_by_element(
    states: Float64[Tensor, "n d_model"], elements: Int[Tensor, " n"], group: AnswerGroup
) -> tuple[Float64[Tensor, "order d_model"], Float64[Tensor, " d_model"]]:
    """Mean state by group element, and over all; an element that never occurs has the overall mean."""
    kept = elements != NOT_IN_GROUP
    states, elements = states[kept], elements[kept]
    mean = states.mean(0)
    sums = torch.zeros(group.order, states.shape[1], dtype=torch.float64).index_add(0, elements, states - mean)
    counts = torch.bincount(elements, minlength=group.order).clamp(min=1)
    return mean + sums / counts[:, None], mean


def _basis(projector: Float64[Tensor, "order order"]) -> Float64[Tensor, "rank order"]:
    """Orthonormal rows that span what a projector projects on."""
    sizes, directions = torch.linalg.eigh(projector)
    return directions[:, sizes > 0.5].T


def _right_with_change(
    net: HookedNet,
    queries: Queries,
    states: Float[Tensor, "n rows d_model"],
    change: Float64[Tensor, "n_elements d_model"],
) -> Bool[Tensor, " n"]:
    """Whether each answer is right with something added to the embeddings of a and b in the queries' own states."""
    change, top = (embedding_scale(net) * change).to(net.device, net.dtype), []
    rows = rows_of(net, range(_ANSWER_POSITION))
    of_queries = (states, queries.tokens[:, :_ANSWER_POSITION].to(net.device), queries.answer_position)
    for own, inputs, position in zip(*(x.split(_BATCH_SIZE) for x in of_queries), strict=True):
        changed = own.clone()
        changed[:, rows] += change[inputs]
        logits = net(
            None, start_at=net.lens_sites[0].label, residual=changed, answer_only=True, answer_position=position
        )
        top.append(logits.argmax(-1).cpu())
    return torch.cat(top) == queries.answer
