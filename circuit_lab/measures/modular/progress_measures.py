"""Progress measures: what grows under a flat test loss while a net of modular arithmetic learns its circuit.

Source: Nanda et al. 2023 (arXiv 2301.05217, section 5.1 and the released notebook `Grokking_Analysis.ipynb`). Their
frequency w_k = 2 pi k / p is our k, their a, b, c are ours. Notation of `pair_logits`: Z[pair, c] are logits centred
over the outputs that are group elements, which changes no loss over them; x is the group element of a pair's result, n
the order of the group.

1. M[x, c] = mean of Z over the pairs with result x.
2. G = P M, its part in the key characters, with P[x, y] = sum_k dimension_k chi_k(x y^-1) / sum_g chi_k(g)^2. On a
   cyclic group P projects on the functions cos(2 pi k x/n) and sin(2 pi k x/n), so for addition G[a + b, c] is the
   projection of Z on cos w_k(a+b) and sin w_k(a+b) over all p^2 pairs. The mean over x is in no character.
3. *Restricted loss*: cross-entropy of mean_x M[x] + G[x]. Falls before the test loss does.
4. *Excluded loss*: cross-entropy of Z[pair] - G[x]. Rises on the training pairs as the circuit takes over from memory.
5. *Neuron shares*: of each neuron of the last MLP at the answer position, over the n x n grid of inputs, the share of
   variance in the 8 functions cos k a, sin k a, cos k b, sin k b and their 4 products, for each k.
6. *Spectra*: norms of the Fourier components of W_E over input elements and of W_L = W_out W_U over outputs, and their
   Gini coefficients. A low Gini coefficient does not mean memorising: a net that answers everything right can have .18.
7. The sum of squared weights is `WeightNorms.sum_of_squares`.

Where the sources differ, and what is chosen:

* Restricted loss. The paper keeps the constant and "the 20 terms corresponding to cos(w_k(a+b)) and sin(w_k(a+b))" of
  five keys: read as 4 products of cos and sin for each key, they also hold a-b. The notebook keeps the 2 directions of
  a+b and adds the mean logits ("bias correction"). So do we, because a-b says nothing of the answer and 2 directions
  carry over to every operation and to S_5. The notebook averages over all pairs: our split "all".
* Excluded loss. Paper and notebook remove all keys, without a correction, and read the training pairs; we read the
  other splits too. As variants the notebook removes one key at a time or, instead of 2 directions for each output, one
  direction cos w_k(a+b-c) for all of them ("3D"), as do Varma et al. 2023 (arXiv 2309.02390): `trig_decomposition`.
* Key frequencies. The paper reads them off figures of the final net; the notebook takes each frequency that is the best
  of some neuron. Here they are an argument, so that the checkpoints of a run can share them.
* Neuron shares. Paper and notebook agree (bound .85: `PERIODIC_SHARE`), but to neurons that never vary the notebook
  gives 0/0 and counts them as periodic; here they are not counted.
* Gini coefficients. Hurley and Rickard's definition (arXiv 0811.4706). Norms are of cos and sin together, since which
  is which depends on the element that is called 0; the notebook has them apart. The constant is left out, and norm
  layers between W_out and W_U are passed over.

These measures show progress and never decide a verdict. Fitted on all pairs, M also holds what was memorised: a pure
memoriser of true labels on a share f of the pairs has M[x, x] = f times its height and 0 elsewhere, so its restricted
logits are right on held-out pairs: all if every character is key, most with a few spread ones. With `fit="held_out"` M
averages over the unmirrored test pairs, of which such a net knows nothing; `trig_decomposition` fitted there decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from circuit_lab.measures.modular.frequency_ablation import isotypic_projector
from circuit_lab.measures.modular.pair_logits import PairLogits, pair_logits
from circuit_lab.measures.modular.trig_decomposition import rows_of
from circuit_lab.measures.result import Result
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import NOT_IN_GROUP, AnswerGroup, ModularTask

PERIODIC_SHARE = 0.85
"""A neuron with more than this share of its variance in one frequency is periodic (Nanda et al., section 4.3)."""


@dataclass(frozen=True)
class KeyFrequencyLosses(Result):
    """Losses with the key frequencies alone and without them, per split ("all" are all pairs).

    Attributes:
        n: Pairs whose answer is a group element; the others, such as 0 under multiplication, are left out.
        loss: Mean cross-entropy over group elements of the whole logits, in nats, >= 0.
        restricted_loss: The same with nothing but the key frequencies and the mean; lower = they answer alone.
        excluded_loss: The same without the key frequencies; higher = they mattered more.
        restricted_accuracy: Share of pairs on whose answer the restricted logits are highest, in [0, 1].
    """

    n: Mapping[str, int]
    loss: Mapping[str, float]
    restricted_loss: Mapping[str, float]
    excluded_loss: Mapping[str, float]
    restricted_accuracy: Mapping[str, float]

    def frame(self) -> pd.DataFrame:
        """One row per split."""
        columns = {name: dict(values) for name, values in vars(self).items()}
        return pd.DataFrame(columns).rename_axis("split").reset_index()


@dataclass(frozen=True, eq=False)
class NeuronFrequencies(Result):
    """How much of each neuron is of one frequency.

    Attributes:
        shares: Share of each neuron's variance over the grid of inputs in the functions of each frequency, in [0, 1];
            column k - 1 is frequency k. nan for neurons that never vary.
    """

    shares: Float64[Tensor, "d_mlp n_freq"]

    @property
    def varies(self) -> Bool[Tensor, " d_mlp"]:
        """Neurons that are not constant."""
        return ~self.shares.isnan().any(1)

    @property
    def best_share(self) -> Float64[Tensor, " d_mlp"]:
        """Each neuron's largest share, in [0, 1]; nan where it never varies."""
        return self.shares.max(1).values

    @property
    def best_frequency(self) -> Int[Tensor, " d_mlp"]:
        """The frequency of that share; 0 where the neuron never varies."""
        return torch.where(self.varies, self.shares.nan_to_num().argmax(1) + 1, 0)

    @property
    def periodic_share(self) -> float:
        """Share of periodic neurons among those that vary, in [0, 1]: see `PERIODIC_SHARE`; nan if none varies."""
        return float((self.best_share[self.varies] > PERIODIC_SHARE).double().mean())

    def frame(self) -> pd.DataFrame:
        """One row per neuron: its best frequency (0 = it never varies) and the share that has."""
        columns = {"frequency": self.best_frequency.numpy(), "share": self.best_share.numpy()}
        return pd.DataFrame(columns).rename_axis("neuron").reset_index()


@dataclass(frozen=True, eq=False)
class WeightSpectra(Result):
    """Norms of the Fourier components of weights; entry k - 1 is frequency k.

    Attributes:
        embedding: Of W_E, over input elements.
        neuron_to_logit: Of W_L = W_out W_U of the last layer, over outputs.
    """

    embedding: Float64[Tensor, " n_freq"]
    neuron_to_logit: Float64[Tensor, " n_freq"]

    @property
    def embedding_gini(self) -> float:
        """Gini coefficient of the embedding's norms: see `gini`."""
        return gini(self.embedding)

    @property
    def neuron_to_logit_gini(self) -> float:
        """Gini coefficient of W_L's norms: see `gini`."""
        return gini(self.neuron_to_logit)

    def frame(self) -> pd.DataFrame:
        """One row per frequency: both norms."""
        norms = {"embedding": self.embedding.numpy(), "neuron_to_logit": self.neuron_to_logit.numpy()}
        return pd.DataFrame({"frequency": range(1, len(self.embedding) + 1), **norms})


@dataclass(frozen=True, eq=False)
class ProgressMeasures(Result):
    """The progress measures of one net.

    Attributes:
        key_frequencies: Names of the characters that count as key.
        fit: The pairs that M averages over.
        n_fitted: Their number.
        losses: Restricted and excluded loss, per split.
        neurons: Frequencies of the neurons; None for permutations, which have none.
        spectra: Fourier norms of the weights; None for permutations.
    """

    key_frequencies: tuple[str, ...]
    fit: Literal["all", "held_out"]
    n_fitted: int
    losses: KeyFrequencyLosses
    neurons: NeuronFrequencies | None
    spectra: WeightSpectra | None

    def frame(self) -> pd.DataFrame:
        """One row per split."""
        return self.losses.frame()


def progress_measures(
    net: HookedNet,
    task: ModularTask,
    *,
    key_frequencies: Sequence[str],
    fit: Literal["all", "held_out"] = "all",
) -> ProgressMeasures:
    """All progress measures of a net but the sum of squared weights.

    Args:
        net: A hooked net.
        task: Its modular task.
        key_frequencies: Names from `task.group.irreps`.
        fit: Pairs that M averages over: "all", as in the paper, or "held_out", the unmirrored test pairs.

    Returns:
        The measures.

    Raises:
        ValueError: If `fit` is neither.
    """
    if fit not in ("all", "held_out"):
        raise ValueError(f'fit must be "all" or "held_out", got {fit!r}')
    logits = pair_logits(net, task.pairs, task.group)
    members = {name: rows_of(logits, split) for name, split in task.splits.items()}
    members["all"] = torch.ones(len(logits), dtype=torch.bool)
    fitted = members["all" if fit == "all" else "test_unmirrored"]
    return ProgressMeasures(
        key_frequencies=tuple(key_frequencies),
        fit=fit,
        n_fitted=int(fitted.sum()),
        losses=key_frequency_losses(logits, members, key_frequencies=key_frequencies, fitted=fitted),
        neurons=neuron_frequencies(net, task) if task.group.is_cyclic else None,
        spectra=weight_spectra(net, task) if task.group.is_cyclic else None,
    )


def key_frequency_losses(
    logits: PairLogits,
    members: Mapping[str, Bool[Tensor, " n"]],
    *,
    key_frequencies: Sequence[str],
    fitted: Bool[Tensor, " n"],
) -> KeyFrequencyLosses:
    """Losses of logits with the key frequencies alone and without them.

    Args:
        logits: Logits of pairs.
        members: Per split, which of the pairs belong to it.
        key_frequencies: Names from `logits.group.irreps`.
        fitted: The pairs that M averages over, at least one.

    Returns:
        The losses on every split that has pairs with a group element as their answer.
    """
    by_result = mean_by_result(logits, fitted)
    key_part = key_frequency_part(by_result, logits.group, key_frequencies)
    has_answer = logits.label != NOT_IN_GROUP
    # Chosen by a mask, all of the logits would be copied.
    answered = slice(None) if has_answer.all() else has_answer
    result, label, centred = (part[answered] for part in (logits.result, logits.label, logits.centred))
    restricted = by_result.mean(0) + key_part
    per_pair = {
        "loss": F.cross_entropy(centred, label, reduction="none"),
        "restricted_loss": -restricted.log_softmax(1)[result, label],
        "excluded_loss": F.cross_entropy(centred - key_part[result], label, reduction="none"),
        "restricted_accuracy": (restricted.argmax(1)[result] == label).double(),
    }
    rows = {name: split[answered] for name, split in members.items() if split[answered].any()}
    means = {
        measure: MappingProxyType({name: float(values[split].mean()) for name, split in rows.items()})
        for measure, values in per_pair.items()
    }
    return KeyFrequencyLosses(n=MappingProxyType({name: int(split.sum()) for name, split in rows.items()}), **means)


def mean_by_result(logits: PairLogits, fitted: Bool[Tensor, " n"]) -> Float64[Tensor, "order order"]:
    """M[x, c], the mean logits of the fitted pairs with result x; results of none get the mean of the other rows.

    Args:
        logits: Logits of pairs.
        fitted: Pairs to average over, at least one.

    Returns:
        A row per result.

    Raises:
        ValueError: If no pair is fitted.
    """
    if not fitted.any():
        raise ValueError("there are no pairs to average logits over; hold some out, or fit on all pairs")
    result, order = logits.result[fitted], logits.group.order
    sums = torch.zeros(order, order, dtype=torch.float64).index_add(0, result, logits.centred[fitted])
    counts = torch.bincount(result, minlength=order)
    means = sums / counts.clamp(min=1)[:, None]
    return torch.where(counts[:, None] > 0, means, means[counts > 0].mean(0))


def key_frequency_part(
    by_result: Float64[Tensor, "order order"], group: AnswerGroup, key_frequencies: Sequence[str]
) -> Float64[Tensor, "order order"]:
    """G = P M, what logits by result have in the key characters.

    Args:
        by_result: M, a row per result.
        group: The group of the results.
        key_frequencies: Names from `group.irreps`; none gives zeros.

    Returns:
        G, whose mean over results is 0.

    Raises:
        ValueError: If a name is given twice; likewise if it is unknown.
    """
    if len(set(key_frequencies)) < len(key_frequencies):
        raise ValueError(f"key_frequencies must differ from each other, got {list(key_frequencies)}")
    return isotypic_projector(group, key_frequencies) @ by_result


@torch.no_grad()
def neuron_frequencies(net: HookedNet, task: ModularTask) -> NeuronFrequencies:
    """Frequency shares of the neurons of the last MLP at the answer position.

    Args:
        net: A hooked net.
        task: Its modular task. Under multiplication and division the inputs are counted by their discrete logarithm,
            without 0; under the other operations they are the residues themselves.

    Returns:
        The shares.
    """
    element, n = _input_elements(task)
    a, b = element[task.pairs.tokens[:, 0]], element[task.pairs.tokens[:, 1]]
    kept = (a != NOT_IN_GROUP) & (b != NOT_IN_GROUP)
    queries = task.pairs[kept]
    hook_name = f"blocks.{net.cfg.n_layers - 1}.mlp.hook_post"
    grid = torch.empty(net.cfg.d_mlp, n, n, dtype=torch.float64)
    for rows in torch.arange(len(queries)).split(4096):
        _, cache = net.run_with_cache(queries.tokens[rows], names_filter=hook_name)
        post = cache[hook_name][torch.arange(len(rows)), queries.answer_position[rows]]
        grid[:, a[kept][rows], b[kept][rows]] = post.T.cpu().double()
    return NeuronFrequencies(shares=frequency_shares(grid))


def frequency_shares(grid: Float[Tensor, "d_mlp n n"]) -> Float64[Tensor, "d_mlp n_freq"]:
    """Share of variance over a grid of two inputs in the functions of each frequency.

    The Fourier transform squared at (i, j) is the energy along cos and sin of i a + j b, and the 8 functions of
    frequency k span those of (k, 0), (0, k), (k, k) and (-k, k). For even n, k = n/2 has no sines, so 3 functions.
    Shares lie in [0, 1]; neurons that never vary have nan.
    """
    n = grid.shape[1]
    # The mean goes first, so that a large one costs no digits.
    centred = grid.double() - grid.double().mean((1, 2), keepdim=True)
    energy = torch.fft.rfft2(centred).abs().square()
    k = torch.arange(1, n // 2 + 1)
    is_nyquist = 2 * k == n
    halves = energy[:, k, 0] + energy[:, 0, k] + energy[:, k, k]
    # The other terms stand for their conjugates too, which the transform leaves out; at n/2, (-k, k) is (k, k).
    of_frequency = torch.where(is_nyquist, halves, 2 * (halves + energy[:, n - k, k]))
    total = n * n * centred.square().sum((1, 2))
    varies = grid.amax((1, 2)) > grid.amin((1, 2))
    return torch.where(varies[:, None], of_frequency / total[:, None], torch.nan)


@torch.no_grad()
def weight_spectra(net: HookedNet, task: ModularTask) -> WeightSpectra:
    """Norms of the Fourier components of W_E and W_L.

    Args:
        net: A hooked net.
        task: Its modular task; elements are counted as in `neuron_frequencies`, outputs as in its group.

    Returns:
        The norms.
    """
    element, n = _input_elements(task)
    tokens = torch.nonzero(element != NOT_IN_GROUP).squeeze(1)
    embedding = torch.empty(n, net.cfg.d_model, dtype=torch.float64)
    embedding[element[tokens]] = net.W_E[tokens.to(net.device)].cpu().double()
    neuron_to_logit = (net.blocks[-1].mlp.W_out.double() @ net.W_U.double()).cpu()
    outputs = neuron_to_logit[:, task.group.output_of_element].T
    return WeightSpectra(embedding=fourier_norms(embedding), neuron_to_logit=fourier_norms(outputs))


def fourier_norms(rows: Float[Tensor, "n d"]) -> Float64[Tensor, " n_freq"]:
    """Norm of each frequency's part of `rows`, cos and sin together, for k = 1 .. n/2; their squares add up.

    >>> fourier_norms(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])).tolist()
    [0.0, 2.0]
    """
    n = len(rows)
    norms = torch.fft.rfft(rows.double(), dim=0)[1:].abs().square().sum(1)
    is_nyquist = 2 * torch.arange(1, n // 2 + 1) == n
    return (norms * torch.where(is_nyquist, 1.0, 2.0).double() / n).sqrt()


def gini(values: Float[Tensor, " n"]) -> float:
    """Gini coefficient of values >= 0: 0 = all equal, (n - 1)/n = all but one are 0; nan if all are 0.

    >>> gini(torch.tensor([1.0, 1.0, 1.0, 1.0])), gini(torch.tensor([0.0, 0.0, 5.0, 0.0]))
    (0.0, 0.75)
    """
    n = len(values)
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    ordered = values.double().sort().values
    return float((2 * ranks - n - 1) @ ordered / (n * ordered.sum()))


def _input_elements(task: ModularTask) -> tuple[Int[Tensor, " n_elements"], int]:
    """Each input's element of a cyclic group, and that group's order."""
    if task.config.is_permutation:
        raise ValueError(
            f"frequencies of neurons and weights are defined on cyclic groups, and the inputs of "
            f'"{task.config.operation}" are permutations; trig_decomposition does define a net\'s parts in characters'
        )
    if task.config.operation in ("a*b", "a/b"):
        return task.group.element_of_output, task.group.order
    return torch.arange(task.config.n_elements), task.config.n_elements
