"""The generalising and the remaining part of the logits of modular arithmetic.

Source: Varma et al. 2023 (arXiv 2309.02390), after the circuit of Nanda et al. 2023 (arXiv 2301.05217); for S_5 the
characters of Chughtai et al. 2023 (arXiv 2302.03025). Notation of `pair_logits`: Y[pair, d] are centred logits, d = 0
the right output.

1. g(d) = mean of Y[pair, d] over the pairs that are fitted on.
2. A_k = sum_d g(d) chi_k(d) / sum_d chi_k(d)^2: for addition the cosine transform
   A_k = (2/p) sum_d g(d) cos(2 pi k d/p).
3. The generalising part of every pair is the same row, Y_gen[d] = sum_k A_k chi_k(d); for addition
   sum_k A_k cos(2 pi k (a + b - c)/p) over k = 1 .. (p-1)/2. The remaining part is Y_mem = Y - Y_gen.

The rows chi_k are orthogonal whatever the set of pairs, so step 2 is the least-squares fit on that set. Time O(p^3), to
read the logits; memory beyond them O(p^2).

Three traps, and what is done about each:

* A pure memoriser of true labels on a share f of the pairs has energy share exactly f when fitted on all pairs
  (`memoriser_baseline`), and the argmax of Y_gen is right on *every* pair. So fit on held-out pairs and read there;
  that argmax is not even offered.
* Without centring, a constant per pair counts as energy that nothing explains.
* Over the pairs fitted on, the mean correct logit of the remaining part is 0 by construction. So it is averaged on each
  split separately.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from circuit_lab.measures.modular.pair_logits import PairLogits, pair_logits
from circuit_lab.measures.result import Result
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import AnswerGroup, ModularTask, Queries

KEY_SHARE = 0.95
"""Key frequencies are the fewest that hold this share of what the generalising energy has above an answer table's level
(`key_frequency_rows`). Nanda et al. pick theirs by eye from the norms of the embedding; a share of what reaches the
logits needs no eye, and is blind to frequencies that are embedded and not used."""


@dataclass(frozen=True)
class PartsOnSplit:
    """Both parts read on the pairs of one split.

    Attributes:
        n: Pairs.
        energy_share: Share of the squared centred logits that the generalising part explains, at most 1; negative where
            it fits worse than nothing.
        correct_logit: Mean centred logit of the right output.
        correct_logit_error: Standard error of that mean over the pairs.
        correct_logit_generalising: The same of the generalising part; equal on all splits, for that part is.
        correct_logit_remaining: The same of the remaining part: what is memorised, where it is positive.
        loss: Mean cross-entropy of the logits over the group elements, in nats, >= 0.
        loss_generalising: The same of the generalising part alone.
        loss_remaining: The same of the remaining part alone; log(order) when it says nothing.
        margin: Mean of the right output's logit minus the best other one.
    """

    n: int
    energy_share: float
    correct_logit: float
    correct_logit_error: float
    correct_logit_generalising: float
    correct_logit_remaining: float
    loss: float
    loss_generalising: float
    loss_remaining: float
    margin: float


@dataclass(frozen=True, eq=False)
class TrigDecomposition(Result):
    """The two parts of a net's logits.

    Attributes:
        group: The group whose characters are fitted.
        fitted_on: Name of the split fitted on.
        n_fitted: Its pairs.
        coefficients: A_k, in logits.
        generalising: Y_gen, the row that every pair shares.
        splits: Both parts read on each split.
        memoriser_baseline: Energy share that a pure memoriser of the training pairs would reach on the fitted pairs:
            the share f of them that it has the answer to, in [0, 1]. One that treats a and b alike reaches more on
            splits that hold mirrored pairs, and no more on `test_unmirrored`.
    """

    group: AnswerGroup
    fitted_on: str
    n_fitted: int
    coefficients: Float64[Tensor, " n_irreps"]
    generalising: Float64[Tensor, " order"]
    splits: Mapping[str, PartsOnSplit]
    memoriser_baseline: float

    @property
    def frequency_energy(self) -> Float64[Tensor, " n_irreps"]:
        """Share of each character in the generalising energy; they sum to 1, or are 0 where there is none."""
        return frequency_energy(self.coefficients, self.group)

    @property
    def key_frequencies(self) -> tuple[str, ...]:
        """The characters that stand out in the generalising energy, strongest first: see `key_frequency_rows`."""
        return tuple(self.group.irreps[k] for k in key_frequency_rows(self.frequency_energy, self.group))

    @property
    def concentration(self) -> float:
        """Distance of the spectrum from an answer table's, in [0, 1): see `concentration`."""
        return float(concentration(self.frequency_energy, self.group))

    @property
    def n_effective(self) -> float:
        """Participation ratio of the characters' energies: 1 = one character, n_irreps = all alike."""
        energy = self.frequency_energy
        return float(1 / energy.square().sum()) if energy.sum() > 0 else float("nan")

    def frame(self) -> pd.DataFrame:
        """One row per split."""
        return pd.DataFrame([{"split": name, **vars(parts)} for name, parts in self.splits.items()])

    def frequency_frame(self) -> pd.DataFrame:
        """One row per character: coefficient, share of energy, the share it has in a flat answer table."""
        return pd.DataFrame(
            {
                "frequency": self.group.irreps,
                "coefficient": self.coefficients.numpy(),
                "energy_share": self.frequency_energy.numpy(),
                "table_energy_share": self.group.table_energy.numpy(),
            }
        )


def trig_decomposition(net: HookedNet, task: ModularTask, *, fit: str = "test_unmirrored") -> TrigDecomposition:
    """Split a net's logits into the generalising and the remaining part.

    Args:
        net: A hooked net.
        task: Its modular task.
        fit: The split to fit on, or "all" for all pairs. Only held-out pairs make evidence: see the module's traps.

    Returns:
        The parts, read on every split of the task that has pairs.

    A split that is not there, or has no pairs, is a ValueError.
    """
    logits = pair_logits(net, task.pairs, task.group)
    members = {name: rows_of(logits, split) for name, split in task.splits.items()}
    return decompose(logits, members | {"all": torch.ones(len(logits), dtype=torch.bool)}, fit=fit)


def decompose(logits: PairLogits, members: Mapping[str, Bool[Tensor, " n"]], *, fit: str) -> TrigDecomposition:
    """The same from logits.

    Args:
        logits: Logits of pairs.
        members: Per split, which of the pairs belong to it.
        fit: The split to fit on.

    Returns:
        The parts, read on every split that has pairs.

    Raises:
        ValueError: If there is no such split, or it has no pairs.
    """
    if fit not in members:
        raise ValueError(f"there is no split {fit!r} to fit on; give one of: {', '.join(members)}")
    fitted = members[fit]
    n_fitted = int(fitted.sum())
    if n_fitted == 0:
        raise ValueError(f"cannot fit on {fit!r}: it has no pairs; hold more pairs out, or fit on another split")
    group = logits.group
    mean_row = torch.zeros(group.order, dtype=torch.float64)
    for rows in _chunks(logits):
        mean_row += fitted[rows].double() @ logits.aligned(rows)
    coefficients = fit_characters(mean_row / n_fitted, group)
    generalising = coefficients @ group.characters
    readings = _read_pairs(logits, generalising)
    known = logits.queries.in_training & (logits.label == logits.result)
    return TrigDecomposition(
        group=group,
        fitted_on=fit,
        n_fitted=n_fitted,
        coefficients=coefficients,
        generalising=generalising,
        splits=MappingProxyType(
            {name: _average(readings, rows, generalising) for name, rows in members.items() if rows.any()}
        ),
        memoriser_baseline=float(known[fitted].double().mean()),
    )


def rows_of(logits: PairLogits, split: Queries) -> Bool[Tensor, " n"]:
    """Which of the pairs belong to a split."""
    base = len(logits.group.element_of_output) + 1
    keys, wanted = (q.tokens[:, 0] * base + q.tokens[:, 1] for q in (logits.queries, split))
    return torch.isin(keys, wanted)


def fit_characters(mean_row: Float64[Tensor, "*batch order"], group: AnswerGroup) -> Float64[Tensor, "*batch n_irreps"]:
    """A_k, the least-squares coefficients of the characters in rows of aligned logits."""
    return mean_row @ group.characters.T / group.characters.square().sum(1)


def frequency_energy(
    coefficients: Float64[Tensor, "*batch n_irreps"], group: AnswerGroup
) -> Float64[Tensor, "*batch n_irreps"]:
    """Share of each character in the energy of sum_k A_k chi_k; all 0 where the sum is."""
    energy = coefficients.square() * group.characters.square().sum(1)
    return energy / energy.sum(-1, keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny)


def key_frequency_rows(energy: Float64[Tensor, " n_irreps"], group: AnswerGroup) -> list[int]:
    """The characters that stand out of a spectrum.

    A table of answers, alone or beside a circuit, writes every character by its size. So the level of such a table, the
    lower quartile over the characters of energy by size, is taken off first; of a circuit of few frequencies it is 0.

    Args:
        energy: Shares of the characters in the energy.
        group: Their group.

    Returns:
        Rows of the fewest that hold `KEY_SHARE` of what stands above the level, strongest first; none where there is
        no energy.
    """
    above = (energy - (energy / group.table_energy).quantile(0.25) * group.table_energy).clamp(min=0)
    if not above.sum() > 1e-6 * energy.sum():
        above = energy  # nothing stands out
    order = above.argsort(descending=True, stable=True)
    n_key = int((above[order].cumsum(0) < KEY_SHARE * above.sum()).sum()) + 1
    return order[:n_key].tolist() if energy.sum() > 0 else []


def concentration(energy: Float64[Tensor, "*batch n_irreps"], group: AnswerGroup) -> float | Tensor:
    """Distance of a spectrum from that of a flat answer table.

    A table of answers writes every character, each by its size (`AnswerGroup.table_energy`); a circuit chooses a few.
    The distance is half the sum of the absolute differences (total variation): 0 for the table, near 1 for one
    character among many.

    Args:
        energy: Shares of the characters, one spectrum or many.
        group: Their group.

    Returns:
        A number in [0, 1), or one for each spectrum; nan where there is no energy.
    """
    distance = (energy - group.table_energy).abs().sum(-1) / 2
    distance = torch.where(energy.sum(-1) > 0, distance, torch.nan)
    return float(distance) if distance.ndim == 0 else distance


def _chunks(logits: PairLogits) -> Iterator[slice]:
    """As many rows at a time as there are outputs, which bounds memory by O(p^2)."""
    step = max(logits.group.order, 1)
    return (slice(start, min(start + step, len(logits))) for start in range(0, len(logits), step))


def _read_pairs(logits: PairLogits, generalising: Float64[Tensor, " order"]) -> Mapping[str, Float64[Tensor, " n"]]:
    """What is averaged over splits, pair by pair."""
    columns: dict[str, list[Tensor]] = {}
    for rows in _chunks(logits):
        aligned = logits.aligned(rows)
        remaining = aligned - generalising
        read = {
            "energy": aligned.square().sum(1),
            "remaining_energy": remaining.square().sum(1),
            "correct_logit": aligned[:, 0].clone(),  # a view would keep its whole chunk
            "loss": aligned.logsumexp(1) - aligned[:, 0],
            "loss_remaining": remaining.logsumexp(1) - remaining[:, 0],
            "margin": aligned[:, 0] - aligned[:, 1:].amax(1),
        }
        for name, values in read.items():
            columns.setdefault(name, []).append(values)
    return {name: torch.cat(parts) for name, parts in columns.items()}


def _average(
    readings: Mapping[str, Float64[Tensor, " n"]], rows: Bool[Tensor, " n"], generalising: Float64[Tensor, " order"]
) -> PartsOnSplit:
    mean = {name: float(values[rows].mean()) for name, values in readings.items()}
    explained = 1 - mean["remaining_energy"] / mean["energy"] if mean["energy"] > 0 else 0.0
    return PartsOnSplit(
        n=int(rows.sum()),
        energy_share=explained,
        correct_logit=mean["correct_logit"],
        correct_logit_error=float(readings["correct_logit"][rows].std(correction=0)) / int(rows.sum()) ** 0.5,
        correct_logit_generalising=float(generalising[0]),
        correct_logit_remaining=mean["correct_logit"] - float(generalising[0]),
        loss=mean["loss"],
        loss_generalising=float(-generalising.log_softmax(0)[0]),
        loss_remaining=mean["loss_remaining"],
        margin=mean["margin"],
    )
