"""Grokking in two numbers: the toy model of two competing circuits (Varma et al. 2023, arXiv 2309.02390, appendix).

1. A generalising circuit puts the logit w_g on the right output of every input. A memorising circuit puts the logit
   w_m on the right output of training inputs, and on a wrong one of test inputs. Each is a product, w_g = g1 g2 and
   w_m = m1 m2, so that a circuit that starts near 0 also grows slowly at first.
2. With q outputs, the cross-entropies are

       train = log(1 + (q - 1) exp(-(w_g + w_m)))
       test  = log(1 + exp(w_m - w_g) + (q - 2) exp(-w_g)).

3. A logit of w costs the parameter norm |w|^(1/kappa) P, where a smaller P is a more efficient circuit. The penalty is
   alpha [(|w_g|^(1/kappa) P_g)^2 + (|w_m|^(1/kappa) P_m)^2].
4. Plain gradient descent on train + penalty, in float64. The penalty's slope is
   (2 alpha P^2 / kappa) sign(w) |w|^(2/kappa - 1), which is 0 at w = 0 because 2/kappa > 1.
5. *Closed form*: the cross-entropy on training inputs depends on w_g + w_m only, so its slope s in w_g and in w_m is
   the same. Where descent stops with all factors non-zero, dtrain/dw + dpenalty/dw = 0 for both circuits, so both
   slopes of the penalty are -s and equal each other: P_g^2 w_g^(2/kappa - 1) = P_m^2 w_m^(2/kappa - 1), hence

       w_g / w_m = (P_g / P_m)^(-2 kappa / (2 - kappa)).

   It needs neither alpha, nor q, nor the start. kappa < 2 makes the marginal cost rise with w; otherwise splitting the
   logit would be no minimum.

Our symbols: `norm_cost_generalising` P_g, `norm_cost_memorising` P_m, `penalty_strength` alpha, `n_outputs` q,
`generalising_factors` (g1, g2) and `memorising_factors` (m1, m2) at the start. Deviations: |w| stands where the paper
has w, which changes nothing for w >= 0 and defines the penalty for w < 0; and `train_loss` is the cross-entropy alone,
comparable with `test_loss`, with the penalty beside it.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from circuit_lab.measures.result import Result


@dataclass(frozen=True)
class ToyModelConfig:
    """The two circuits, their costs and how they are trained. The defaults grok.

    Attributes:
        norm_cost_generalising: P_g, parameter norm of the generalising circuit at logit 1, > 0.
        norm_cost_memorising: P_m, the same of the memorising circuit.
        kappa: Degree in which a circuit's logit grows with its parameter norm, in (0, 2).
        penalty_strength: alpha, weight of the squared norms in the objective, > 0.
        n_outputs: q, number of outputs, at least 3: the right one, the memorised wrong one and another.
        learning_rate: Step size of gradient descent, > 0.
        generalising_factors: (g1, g2) at the start. Both 0 is a saddle that descent never leaves.
        memorising_factors: (m1, m2) at the start, likewise.
    """

    norm_cost_generalising: float = 1.0
    norm_cost_memorising: float = 2.0
    kappa: float = 1.2
    penalty_strength: float = 0.005
    n_outputs: int = 113
    learning_rate: float = 0.01
    generalising_factors: tuple[float, float] = (0.0, 0.005)
    memorising_factors: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("norm_cost_generalising", "norm_cost_memorising", "penalty_strength", "learning_rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0 < self.kappa < 2:
            raise ValueError(f"kappa must lie between 0 and 2 (exclusive), got {self.kappa}; the paper uses 1.2")
        if self.n_outputs < 3:
            raise ValueError(f"n_outputs must be at least 3 (right, memorised wrong, other), got {self.n_outputs}")
        for name in ("generalising_factors", "memorising_factors"):
            value = getattr(self, name)
            if not all(math.isfinite(factor) for factor in value):
                raise ValueError(f"{name} must be two finite numbers, got {value}")


@dataclass(frozen=True, eq=False)
class ToyModelRun(Result):
    """One training run, recorded every few steps and after the last one.

    Attributes:
        config: What was trained.
        step: Gradient steps taken before the record.
        w_g: Logit of the generalising circuit.
        w_m: Logit of the memorising circuit.
        train_loss: Cross-entropy on training inputs in nats, >= 0, without the penalty.
        test_loss: Cross-entropy on test inputs in nats, >= 0.
        penalty: What the norms add to the objective, >= 0.
    """

    config: ToyModelConfig
    step: Int64[np.ndarray, " n_records"]
    w_g: Float64[np.ndarray, " n_records"]
    w_m: Float64[np.ndarray, " n_records"]
    train_loss: Float64[np.ndarray, " n_records"]
    test_loss: Float64[np.ndarray, " n_records"]
    penalty: Float64[np.ndarray, " n_records"]

    @property
    def ratio(self) -> float:
        """Final w_g / w_m; above 1 the generalising circuit makes more of the logit. NaN if w_m ends at 0."""
        return float(self.w_g[-1] / self.w_m[-1]) if self.w_m[-1] != 0 else math.nan

    def delay(self, level: float) -> int | None:
        """Steps between the first record with train loss <= `level` nats and the first with such a test loss.

        Exact to the distance between records. None if either loss never gets there: then there is no delay to speak
        of, because nothing was learnt or nothing generalised.
        """
        trained, generalised = self.train_loss <= level, self.test_loss <= level
        if not (trained.any() and generalised.any()):
            return None
        return int(self.step[generalised.argmax()] - self.step[trained.argmax()])

    def frame(self) -> pd.DataFrame:
        """One row per record: step, w_g, w_m, train_loss, test_loss, penalty."""
        columns = ("step", "w_g", "w_m", "train_loss", "test_loss", "penalty")
        return pd.DataFrame({name: getattr(self, name) for name in columns})


def closed_form_ratio(config: ToyModelConfig) -> float:
    """The w_g / w_m at which descent stops if neither circuit is stuck at 0 (step 5 above).

    Args:
        config: Only the two norm costs and kappa matter.

    Returns:
        The ratio, > 0; above 1 when the generalising circuit is the cheaper one.

    >>> round(closed_form_ratio(ToyModelConfig()), 6)
    8.0
    >>> round(closed_form_ratio(ToyModelConfig(norm_cost_generalising=4.0)), 6)
    0.125
    """
    exponent = -2 * config.kappa / (2 - config.kappa)
    return (config.norm_cost_generalising / config.norm_cost_memorising) ** exponent


def two_circuit_toy_model(config: ToyModelConfig, *, n_steps: int = 50_000, record_every: int = 10) -> ToyModelRun:
    """Train the two circuits by gradient descent (about a second; nothing is random).

    Args:
        config: Costs, starting point and learning rate.
        n_steps: Gradient steps; by the default the paper's settings have converged to eight digits.
        record_every: Steps between records; the last step is always recorded.

    Returns:
        The recorded run.

    Raises:
        ValueError: If `n_steps` or `record_every` is below 1, or descent diverged.

    >>> run = two_circuit_toy_model(ToyModelConfig(), n_steps=20_000)
    >>> print(f"test loss {run.test_loss.max():.2f} at its worst, {run.test_loss[-1]:.3f} at the end")
    test loss 6.85 at its worst, 0.078 at the end
    """
    if n_steps < 1 or record_every < 1:
        raise ValueError(f"n_steps and record_every must be at least 1, got {n_steps} and {record_every}")
    factors = np.array([config.generalising_factors, config.memorising_factors], dtype=np.float64)
    recorded = np.union1d(np.arange(0, n_steps, record_every), n_steps)
    weights = np.empty((len(recorded), 2))
    step = 0
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported below, in words
        for record, until in enumerate(recorded):
            for _ in range(step, until):
                factors = factors - config.learning_rate * _gradient(factors, config)
            step = until
            weights[record] = factors.prod(axis=1)
    if not np.isfinite(weights).all():
        first = recorded[~np.isfinite(weights).all(axis=1)][0]
        raise ValueError(f"descent diverged by step {first}: lower learning_rate, which is {config.learning_rate}")
    return ToyModelRun(
        config=config,
        step=recorded,
        w_g=weights[:, 0],
        w_m=weights[:, 1],
        train_loss=_train_loss(weights, config),
        test_loss=_test_loss(weights, config),
        penalty=_penalty(weights, config),
    )


def _train_loss(weights: Float64[np.ndarray, "*n 2"], config: ToyModelConfig) -> Float64[np.ndarray, "*n"]:
    """Cross-entropy on training inputs of (w_g, w_m), step 2."""
    return np.asarray(np.logaddexp(0.0, math.log(config.n_outputs - 1) - weights.sum(-1)))


def _test_loss(weights: Float64[np.ndarray, "*n 2"], config: ToyModelConfig) -> Float64[np.ndarray, "*n"]:
    """Cross-entropy on test inputs of (w_g, w_m), step 2."""
    w_g, w_m = weights[..., 0], weights[..., 1]
    wrong_logit = np.logaddexp(w_m, math.log(config.n_outputs - 2))
    return np.asarray(np.logaddexp(0.0, wrong_logit - w_g))


def _squared_norm_costs(config: ToyModelConfig) -> Float64[np.ndarray, " 2"]:
    """(P_g^2, P_m^2)."""
    return np.array([config.norm_cost_generalising, config.norm_cost_memorising], dtype=np.float64) ** 2


def _penalty(weights: Float64[np.ndarray, "*n 2"], config: ToyModelConfig) -> Float64[np.ndarray, "*n"]:
    """The norms' part of the objective, step 3."""
    squared_norms = np.abs(weights) ** (2 / config.kappa) * _squared_norm_costs(config)
    return np.asarray(config.penalty_strength * squared_norms.sum(-1))


def _gradient(factors: Float64[np.ndarray, "2 2"], config: ToyModelConfig) -> Float64[np.ndarray, "2 2"]:
    """Slope of train loss + penalty in ((g1, g2), (m1, m2)), step 4."""
    weights = factors.prod(axis=1)
    wrong_probability = 0.5 + 0.5 * math.tanh((math.log(config.n_outputs - 1) - weights.sum()) / 2)
    penalty_slope = np.sign(weights) * np.abs(weights) ** (2 / config.kappa - 1)
    penalty_slope *= 2 / config.kappa * config.penalty_strength * _squared_norm_costs(config)
    return (penalty_slope - wrong_probability)[:, None] * factors[:, ::-1]
