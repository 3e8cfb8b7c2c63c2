"""What attribution patching stands on: the two runs of a batch of pairs, and gradients on the way between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_lab.measures.attribution.edges import RunInput, lending_and_receiving
from circuit_lab.measures.hooked_model import (
    HookedModel,
    activations,
    check_model,
    keepers,
    lens_sites,
    logits_at,
    n_prefix,
    resumed_logits,
)
from circuit_lab.measures.metrics import METRICS, Target, target_of
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.nets.components import at_position

DIFFERENTIABLE_METRICS = ("logit_diff", "probability", "kl")
"""The metrics that have a gradient."""


def check_attribution(model: HookedModel, pairs: QueryPairs, *, n_steps: int, direction: str, metric: str) -> None:
    """Refuse what no attribution can be made of.

    Args:
        model: Any hooked model.
        pairs: Query pairs.
        n_steps: Points at which gradients are taken.
        direction: "denoising" or "noising".
        metric: A metric.

    Raises:
        ValueError: If `n_steps` is below 1 or the metric has no gradient.
    """
    check_model(model)
    lending_and_receiving(pairs, direction)
    if metric not in DIFFERENTIABLE_METRICS:
        raise ValueError(f"metric must have a gradient ({', '.join(DIFFERENTIABLE_METRICS)}), got {metric!r}")
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")


@dataclass(frozen=True, eq=False)
class PairedRuns:
    """Activations and logits of the two runs of a batch of pairs, without gradients.

    Attributes:
        embedding: Hook name of the embedding, the first lens site.
        lending: Activations of the lending run, by hook name.
        receiving: Activations of the receiving run.
        lending_logits: Logits of the lending run at the answer position.
        receiving_logits: Logits of the receiving run.
        answer_position: Where the answer is read.
        target: What logits are compared with.
        metric: The metric whose gradient is taken.
    """

    embedding: str
    lending: Mapping[str, Tensor]
    receiving: Mapping[str, Tensor]
    lending_logits: Float[Tensor, "n d_vocab_out"]
    receiving_logits: Float[Tensor, "n d_vocab_out"]
    answer_position: Int[Tensor, " n"]
    target: Target
    metric: str

    def metric_of(self, logits: Float[Tensor, "n d_vocab_out"]) -> Float[Tensor, " n"]:
        """The metric of each query."""
        return self.target.metrics(logits)[METRICS.index(self.metric)]

    def embedding_at(self, share: float) -> Float[Tensor, "n rows d_model"]:
        """The embedding `share` of the way from the receiving to the lending run."""
        return torch.lerp(self.receiving[self.embedding], self.lending[self.embedding], share)

    def difference(self, name: str) -> Tensor:
        """Lending minus receiving run's activation."""
        return self.lending[name] - self.receiving[name]


@torch.no_grad()
def paired_runs(
    model: HookedModel, batch: QueryPairs, names: Sequence[str], *, direction: str, metric: str
) -> PairedRuns:
    """Run both queries of each pair.

    Args:
        model: Any hooked model.
        batch: Query pairs; one forward pass holds them all.
        names: Hook names of the activations to keep, beside the embedding.
        direction: "denoising" or "noising".
        metric: A metric.

    Returns:
        The runs, on the model's device.
    """
    first, *_, last = (site.hook_name for site in lens_sites(model))

    def run(given: RunInput) -> dict[str, Tensor]:
        return activations(model, given.tokens, [first, last, *names], fwd_hooks=given.hooks())

    lending, receiving = (run(given) for given in lending_and_receiving(batch, direction))
    position = batch.clean.answer_position.to(lending[last].device)
    lending_logits, receiving_logits = (
        logits_at(model, at_position(seen[last], n_prefix(model) + position)) for seen in (lending, receiving)
    )
    target = target_of(
        lending_logits if direction == "denoising" else receiving_logits,
        answer=batch.clean.answer,
        other_answer=batch.corrupt.answer,
    )
    return PairedRuns(first, lending, receiving, lending_logits, receiving_logits, position, target, metric)


@dataclass(frozen=True, eq=False)
class Point:
    """Activations of one forward pass, by hook name, and the gradient of the summed metric at each."""

    activations: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]


def point_on_path(model: HookedModel, runs: PairedRuns, names: Sequence[str], share: float) -> Point:
    """Run from the embedding `share` of the way to the lending run, and back.

    Args:
        model: Any hooked model.
        runs: The two runs.
        names: Hook names whose activations and gradients are wanted.
        share: 0 = the receiving run, 1 = the lending run.

    Returns:
        Activations and gradients; parameters' gradients are left alone.
    """
    start = runs.embedding_at(share).detach().requires_grad_()
    seen = {runs.embedding: start}  # its hook does not fire in every resumed pass
    with torch.enable_grad():
        logits = resumed_logits(
            model,
            start,
            runs.answer_position,
            start_at="embed",
            fwd_hooks=keepers(seen, names),
        )
        total = runs.metric_of(logits).sum()
        gradients = torch.autograd.grad(total, [seen[name] for name in names], materialize_grads=True)
    return Point(
        activations={name: seen[name].detach() for name in names},
        gradients=dict(zip(names, gradients, strict=True)),
    )


def shares_of_path(n_steps: int) -> list[float]:
    """Where on the way from the receiving to the lending run gradients are taken.

    >>> shares_of_path(1), shares_of_path(2)
    ([0.0], [0.25, 0.75])
    """
    return [0.0] if n_steps == 1 else [(step + 0.5) / n_steps for step in range(n_steps)]
