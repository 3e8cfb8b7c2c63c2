"""Metrics of an answer's logits, per query: what an intervention is measured by.

With logits z at the answer position, answer t, foil f and the log-probabilities log q of a reference run (the run in
which nothing is replaced and the answer is t):

* `logit_diff` = z[t] - z[f], in logits, any sign; higher = the answer is favoured. The foil is the other run's answer;
  where both runs have the same answer it is the reference run's best other token.
* `probability` = softmax(z)[t], in [0, 1].
* `accuracy` = 1 if t is the top token, else 0.
* `rank` = number of tokens whose logit is at least z[t], from 1 (on top) to d_vocab_out; ties count against the answer.
* `kl` = KL(q || softmax(z)) in nats, >= 0; 0 = the reference run's distribution.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

METRICS = ("logit_diff", "probability", "accuracy", "rank", "kl")
"""Names of the metrics, in the order of the first axis of `Target.metrics`."""

METRIC_UNITS = {"logit_diff": "logits", "probability": "", "accuracy": "", "rank": "tokens", "kl": "nats"}
"""Unit of each metric, for axes; empty for shares."""


def ranks_of(logits: Float[Tensor, "*cells d_vocab_out"], target: Int[Tensor, "*cells"]) -> Int[Tensor, "*cells"]:
    """Rank of each target among the logits, from 1 (on top); ties count against it."""
    return (logits >= logits.gather(-1, target[..., None])).sum(-1)


@dataclass(frozen=True, eq=False)
class Target:
    """What the logits of each query are compared with.

    Attributes:
        answer: The right answer of the reference run.
        foil: The token the answer is compared with.
        reference_log_probs: Log-probabilities of the reference run at the answer position.
    """

    answer: Int[Tensor, " n"]
    foil: Int[Tensor, " n"]
    reference_log_probs: Float[Tensor, "n d_vocab_out"]

    def metrics(self, logits: Float[Tensor, "*cells n d_vocab_out"]) -> Float[Tensor, "n_metrics *cells n"]:
        """Every metric of every query, in the order of `METRICS`.

        Args:
            logits: Logits at the answer position, per cell and query.

        Returns:
            The metrics, in the logits' type.
        """
        answer = self.answer.expand(logits.shape[:-1])[..., None]
        foil = self.foil.expand(logits.shape[:-1])[..., None]
        of_answer = logits.gather(-1, answer)
        log_probs = logits.log_softmax(-1)
        rank = ranks_of(logits, answer.squeeze(-1)).to(logits.dtype)
        kl = (self.reference_log_probs.exp() * (self.reference_log_probs - log_probs)).sum(-1)
        return torch.stack(
            [
                (of_answer - logits.gather(-1, foil)).squeeze(-1),
                log_probs.gather(-1, answer).squeeze(-1).exp(),
                (rank == 1).to(logits.dtype),
                rank,
                kl.clamp(min=0),
            ]
        )


def target_of(
    reference_logits: Float[Tensor, "n d_vocab_out"], *, answer: Int[Tensor, " n"], other_answer: Int[Tensor, " n"]
) -> Target:
    """The target of queries whose reference run gave `reference_logits`.

    Args:
        reference_logits: Logits of the reference run at the answer position.
        answer: Its right answer.
        other_answer: The other run's right answer; where it is the same, the foil is the reference run's best other
            token.

    Returns:
        The target, on the device of the logits.
    """
    answer, other_answer = answer.to(reference_logits.device), other_answer.to(reference_logits.device)
    best_other = reference_logits.scatter(-1, answer[:, None], -torch.inf).argmax(-1)
    return Target(
        answer=answer,
        foil=torch.where(answer == other_answer, best_other, other_answer),
        reference_log_probs=reference_logits.log_softmax(-1),
    )
