"""How large the weights are, how large the logits they buy, and whether training only scales them up.

1. *Norms*: the Euclidean norm of all weights, of each component and of each matrix; a weight that several layers share
   counts once. The sum of squares, which weight decay pulls on, is a progress measure of Nanda et al. 2023 (arXiv
   2301.05217).
2. *Efficiency* (Varma et al. 2023, arXiv 2309.02390): the mean logit of the right output, centred over outputs, for
   each unit of weight norm. They compare pure circuits at equal logit; of a net that may hold two circuits, the ratio
   does not tell which of them earns the logits.
3. *Logit scale and margin*: a norm alone misleads, because the same norm gives other logits in another place. The scale
   is the root mean square of the centred logits.
4. *Softmax collapse* (Prieto et al. 2025, arXiv 2501.04697): queries whose loss has rounded to 0 teach nothing.
5. *Alignment* (the same paper, "naive loss minimisation"): the cosine between the loss's gradient g and the weights w.
   For small s, loss((1 + s) w) = loss(w) + s <g, w>, so -1 means that the steepest way down is to scale all weights
   up, which in a net that is homogeneous in its weights makes all logits grow and changes no answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

import pandas as pd
import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from circuit_lab.measures.modular.pair_logits import answer_logits
from circuit_lab.measures.result import Result
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries

LOW_QUANTILE = 0.05
_COMPONENT_OF_MODULE: Mapping[str, str] = MappingProxyType(
    {
        "embed": "embedding",
        "pos_embed": "embedding",
        "attn": "attention",
        "pos_mlp": "position MLP",
        "mlp": "mlp",
        "unembed": "unembedding",
        "ln1": "norm layers",
        "ln2": "norm layers",
        "ln_final": "norm layers",
    }
)


@dataclass(frozen=True)
class WeightNorms(Result):
    """Euclidean norms of a net's weights, all >= 0.

    Attributes:
        total: Norm of all weights.
        sum_of_squares: Its square.
        components: Norm of each component: "embedding" (tokens and positions), "attention" (or "position MLP"), "mlp",
            "unembedding", and "norm layers" if there are any. Their squares add up to `sum_of_squares`.
        matrices: Norm of each parameter, by its name in `named_parameters`.
        n_weights: Number of weights in each parameter.
    """

    total: float
    sum_of_squares: float
    components: Mapping[str, float]
    matrices: Mapping[str, float]
    n_weights: Mapping[str, int]

    def frame(self) -> pd.DataFrame:
        """One row for the total, each component and each matrix: norm, sum of squares, number of weights."""
        counts = {"total": dict.fromkeys(["all"], sum(self.n_weights.values())), "matrix": self.n_weights}
        counts["component"] = _sum_by_component(self.n_weights)
        levels = {"total": {"all": self.total}, "component": self.components, "matrix": self.matrices}
        return pd.DataFrame(
            {"level": level, "name": name, "norm": norm, "sum_of_squares": norm**2, "n_weights": counts[level][name]}
            for level, norms in levels.items()
            for name, norm in norms.items()
        )


@dataclass(frozen=True)
class LogitEfficiency(Result):
    """What logits a net's weights buy on some queries.

    Attributes:
        n: Queries.
        correct_logit: Mean logit of the right output, centred over outputs; higher = surer and right.
        weight_norm: Norm of all weights, > 0.
        efficiency: Correct logit for each unit of weight norm.
        logit_scale: Root mean square of the centred logits over outputs and queries, >= 0: the effective inverse
            temperature.
        margin_mean: Mean of the right output's logit minus the best other one; negative where the answer is wrong.
        margin_low: The margin that `LOW_QUANTILE` of the queries fall below.
        collapsed_float32: Share of queries whose loss in float32 is exactly 0, in [0, 1].
        collapsed_float64: The same in float64.
    """

    n: int
    correct_logit: float
    weight_norm: float
    efficiency: float
    logit_scale: float
    margin_mean: float
    margin_low: float
    collapsed_float32: float
    collapsed_float64: float

    def frame(self) -> pd.DataFrame:
        """One row."""
        return pd.DataFrame([asdict(self)])


@dataclass(frozen=True)
class GradientAlignment(Result):
    """How the loss's gradient lies to the weights.

    Attributes:
        n: Queries the loss is averaged over.
        loss: Mean cross-entropy, in nats, >= 0.
        cosine: Cosine of gradient and weights, in [-1, 1]: -1 = a step only scales all weights up, 0 = it leaves their
            norm alone; nan where either is 0, as the gradient is when every query has collapsed.
        components: The same within each component.
        gradient_norm: Norm of the gradient, in nats per unit of weight.
    """

    n: int
    loss: float
    cosine: float
    components: Mapping[str, float]
    gradient_norm: float

    def frame(self) -> pd.DataFrame:
        """One row for all weights and each component."""
        cosines = {"all": self.cosine, **self.components}
        return pd.DataFrame(
            {"component": name, "cosine": cosine, "loss": self.loss, "n": self.n} for name, cosine in cosines.items()
        )


def weight_norms(net: HookedNet) -> WeightNorms:
    """Norms of a net's weights, in total, by component and by matrix.

    Args:
        net: A hooked net.

    Returns:
        The norms, computed in float64.
    """
    weights = _weights(net)
    squares = {name: float(weight.double().square().sum()) for name, weight in weights.items()}
    return WeightNorms(
        total=sum(squares.values()) ** 0.5,
        sum_of_squares=sum(squares.values()),
        components=_readonly(_sum_by_component(squares), lambda square: square**0.5),
        matrices=_readonly(squares, lambda square: square**0.5),
        n_weights=MappingProxyType({name: weight.numel() for name, weight in weights.items()}),
    )


def logit_efficiency(net: HookedNet, queries: Queries) -> LogitEfficiency:
    """Logits of the right outputs, for each unit of weight norm.

    Args:
        net: A hooked net.
        queries: The queries to answer, at least one.

    Returns:
        Averages over the queries.
    """
    return efficiency_of_logits(answer_logits(net, queries), queries.answer, weight_norm=weight_norms(net).total)


def efficiency_of_logits(
    logits: Float64[Tensor, "n d_vocab_out"], answer: Int[Tensor, " n"], *, weight_norm: float
) -> LogitEfficiency:
    """The same from logits that are already there.

    Args:
        logits: A row per query.
        answer: The right output of each.
        weight_norm: Norm of all weights that made them.

    Returns:
        Averages over the queries.

    Raises:
        ValueError: If there are no queries.
    """
    if len(answer) == 0:
        raise ValueError("logit efficiency is an average over queries, and there are none; give at least one")
    centred = logits - logits.mean(1, keepdim=True)
    correct = centred.gather(1, answer[:, None]).squeeze(1)
    best_other = centred.scatter(1, answer[:, None], -torch.inf).max(1).values
    margin = correct - best_other
    correct_logit = float(correct.mean())
    return LogitEfficiency(
        n=len(answer),
        correct_logit=correct_logit,
        weight_norm=weight_norm,
        efficiency=correct_logit / weight_norm,
        logit_scale=float(centred.square().mean().sqrt()),
        margin_mean=float(margin.mean()),
        margin_low=float(margin.quantile(LOW_QUANTILE)),
        collapsed_float32=_collapsed(logits.float(), answer),
        collapsed_float64=_collapsed(logits, answer),
    )


def gradient_weight_alignment(
    net: HookedNet,
    queries: Queries,
    *,
    loss_dtype: torch.dtype = torch.float64,
    batch_size: int = 4096,
) -> GradientAlignment:
    """Cosine between the gradient of the mean loss and the weights, in total and by component.

    The net stays as it is: its gradients, its mode and which of its weights are trained. All of them count here.

    Args:
        net: A hooked net.
        queries: The queries whose mean loss is differentiated, at least one.
        loss_dtype: Type in which log-softmax and loss are computed; float32 shows the gradient that collapse leaves.
        batch_size: Queries per pass; bounds memory.

    Returns:
        The cosines.

    Raises:
        ValueError: If there are no queries.
    """
    if len(queries) == 0:
        raise ValueError("the gradient is that of a mean loss over queries, and there are none; give at least one")
    weights = {name: weight.clone().requires_grad_() for name, weight in _weights(net).items()}
    gradients = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    loss = 0.0
    for start in range(0, len(queries), batch_size):
        with torch.enable_grad():
            part = _summed_loss(net, weights, queries[start : start + batch_size], loss_dtype) / len(queries)
        loss += float(part.detach())
        for name, gradient in zip(weights, torch.autograd.grad(part, list(weights.values())), strict=True):
            gradients[name] += gradient
    products = {name: float((gradients[name] * weights[name].detach()).sum()) for name in weights}
    squares = {name: float(gradient.square().sum()) for name, gradient in gradients.items()}
    norms = weight_norms(net)
    of_component, squares_of_component = _sum_by_component(products), _sum_by_component(squares)
    gradient_norm = sum(squares.values()) ** 0.5
    return GradientAlignment(
        n=len(queries),
        loss=loss,
        cosine=_ratio(sum(products.values()), gradient_norm * norms.total),
        components=MappingProxyType(
            {
                name: _ratio(product, squares_of_component[name] ** 0.5 * norms.components[name])
                for name, product in of_component.items()
            }
        ),
        gradient_norm=gradient_norm,
    )


def _weights(net: HookedNet) -> dict[str, Tensor]:
    """Every weight once, by its name in the first layer that uses it."""
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def _summed_loss(net: HookedNet, weights: dict[str, Tensor], queries: Queries, loss_dtype: torch.dtype) -> Tensor:
    """Cross-entropy summed over queries, as a function of `weights` instead of the net's own."""
    options = {"answer_only": True, "answer_position": queries.answer_position}
    logits = functional_call(net, weights, (queries.tokens,), options, tie_weights=True)
    return F.cross_entropy(logits.to(loss_dtype), queries.answer.to(logits.device), reduction="sum")


def _collapsed(logits: Tensor, answer: Int[Tensor, " n"]) -> float:
    return float((F.cross_entropy(logits, answer, reduction="none") == 0).double().mean())


def _component(name: str) -> str:
    """Component of a parameter: that of the one module in its path which the table knows."""
    modules = [part for part in name.split(".") if part in _COMPONENT_OF_MODULE]
    assert len(modules) == 1, f"parameter {name} belongs to no component or to several"
    return _COMPONENT_OF_MODULE[modules[0]]


def _sum_by_component(values: Mapping[str, float | int]) -> dict[str, float | int]:
    """Sums over the parameters of each component that has any, in the order of the table."""
    component = {name: _component(name) for name in values}
    present = [name for name in dict.fromkeys(_COMPONENT_OF_MODULE.values()) if name in component.values()]
    return {of: sum(value for name, value in values.items() if component[name] == of) for of in present}


def _readonly(values: Mapping[str, float], change: Callable[[float], float]) -> Mapping[str, float]:
    return MappingProxyType({name: change(value) for name, value in values.items()})


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else float("nan")
