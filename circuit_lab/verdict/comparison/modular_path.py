"""Do two modular nets use the same path? By what the ablations and the spectra say.

In this order:

1. Equal weights: yes.
2. On some split the right answers of one go mostly through its key frequencies, and those of the other mostly do not:
   no.
3. Another operation or modulus, or answers that do not go through key frequencies in either: cannot tell.
4. Both go through their key frequencies. With e_A and e_B the shares of each frequency in the generalising energy, the
   shared energy is sum_k min(e_A(k), e_B(k)), in [0, 1] (one minus the total variation). Mostly shared: yes. Mostly
   not: no, by convention: they run the same algorithm with other frequencies. In between: cannot tell.

No state is exchanged here. That each net depends on its own frequencies is shown by ablation; that equal frequencies
are one path is a convention.
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from circuit_lab.measures import (
    Interval,
    PairLogits,
    TrigDecomposition,
    fit_characters,
    frequency_energy,
    pair_logits,
    rows_of,
)
from circuit_lab.verdict.comparison.paired_queries import Side, ask_the_same
from circuit_lab.verdict.comparison.path import (
    PathAnswer,
    PathEvidence,
    PathThresholds,
    have_same_weights,
    mediation_evidence,
    only_one_through_circuit,
    share_through_circuit,
)
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS

N_RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 50
_SHOWN_FREQUENCIES = 8


def compare_modular_paths(a: Side, b: Side, *, seed: int, at: PathThresholds) -> PathAnswer:
    """Whether two modular nets use the same path.

    Args:
        a: The first checkpoint.
        b: The second.
        seed: Seed of the resamples.
        at: What to compare with.

    Returns:
        The answer with its reasons and numbers.
    """
    evidence = mediation_evidence(a, b)
    comparable = ask_the_same(a, b)
    shared = _shared_energy(a, b, seed) if comparable else None
    if shared is not None:
        evidence.append(shared)
    if have_same_weights(a.subject.net, b.subject.net):
        return PathAnswer("yes", ("The two nets have the same weights.",), tuple(evidence))
    reason = only_one_through_circuit(
        a,
        b,
        mostly=MODULAR_THRESHOLDS.through_circuit,
        mostly_not=MODULAR_THRESHOLDS.not_through_circuit,
        circuit="key frequencies",
    )
    if reason is not None:
        return PathAnswer("no", (reason,), tuple(evidence))
    if shared is None:
        reason = "They compute different operations, whose frequencies have nothing to do with each other."
        return PathAnswer("cannot tell", (reason,), tuple(evidence))
    if not (_goes_through(a) and _goes_through(b)):
        reason = "Not both nets' held-out answers go mostly through key frequencies; tables are not told apart."
        return PathAnswer("cannot tell", (reason,), tuple(evidence))
    answer = _by_frequencies(a, b, shared, at)
    return PathAnswer(answer.same_path, answer.reasons, tuple(evidence))


def _goes_through(side: Side) -> bool:
    """Whether the held-out answers of a net go mostly through its key frequencies."""
    through = share_through_circuit(side, _decomposition(side).fitted_on)
    return through.interval.low >= MODULAR_THRESHOLDS.through_circuit


def _by_frequencies(a: Side, b: Side, shared: PathEvidence, at: PathThresholds) -> PathAnswer:
    """The answer of two circuits' spectra."""
    assert shared.value is not None and shared.low is not None and shared.high is not None
    keys = [_decomposition(side).key_frequencies for side in (a, b)]
    both = [name for name in keys[0] if name in keys[1]]
    of_both = f"they share {', '.join(both[:_SHOWN_FREQUENCIES])}" if both else "they share none"
    sets = f"Key frequencies: A {_listed(keys[0])}; B {_listed(keys[1])}; {of_both}."
    energy = f"Shared energy {shared.value:.2f} [{shared.low:.2f}, {shared.high:.2f}]."
    if shared.low >= at.shared_frequencies:
        return PathAnswer("yes", ("Both answer through the same frequencies.", energy, sets), ())
    if shared.high <= at.other_frequencies:
        reason = "Same algorithm, other frequencies: by convention two circuits."
        return PathAnswer("no", (reason, energy, sets), ())
    reason = "Their frequencies are shared in part: neither one circuit nor two."
    return PathAnswer("cannot tell", (reason, energy, sets), ())


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN_FREQUENCIES]) + (", ..." if len(names) > _SHOWN_FREQUENCIES else "")


def _decomposition(side: Side) -> TrigDecomposition:
    return side.diagnosis.measurements.decomposition


def _shared_energy(a: Side, b: Side, seed: int) -> PathEvidence:
    """Shared generalising energy, with a percentile bootstrap over the held-out pairs of each net."""
    decompositions = [_decomposition(side) for side in (a, b)]
    spectra = [decomposition.frequency_energy for decomposition in decompositions]
    rng = np.random.default_rng(seed)
    draws = _overlap(*(_resampled_spectra(_held_out_logits(side), rng) for side in (a, b)))
    interval = Interval(*np.quantile(draws.numpy(), [0.025, 0.975]).tolist())
    return PathEvidence(
        name="shared generalising energy",
        where="frequencies",
        value=float(_overlap(*spectra)),
        low=interval.low,
        high=interval.high,
        n=min(decomposition.n_fitted for decomposition in decompositions),
        control=float(_overlap(spectra[0], decompositions[0].group.table_energy)),
        compared_with="A with a flat table of answers, which has every frequency",
        decides=True,
    )


def _overlap(a: Float64[Tensor, "*draws n_irreps"], b: Float64[Tensor, "*draws n_irreps"]) -> Float64[Tensor, "*draws"]:
    """Share of the energy that sits in the same frequencies."""
    return torch.minimum(a, b).sum(-1)


def _held_out_logits(side: Side) -> PairLogits:
    task = side.subject.task
    logits = pair_logits(side.subject.net, task.pairs, task.group)
    return logits[rows_of(logits, task.splits[_decomposition(side).fitted_on])]


def _resampled_spectra(logits: PairLogits, rng: np.random.Generator) -> Float64[Tensor, "n_resamples n_irreps"]:
    """Frequency energies of bootstrap resamples of the pairs."""
    aligned, n = logits.aligned(), len(logits)
    spectra = []
    for _ in range(0, N_RESAMPLES, _RESAMPLES_AT_ONCE):
        drawn = rng.integers(n, size=(_RESAMPLES_AT_ONCE, n))
        weights = torch.from_numpy(np.stack([np.bincount(row, minlength=n) for row in drawn])).double()
        spectra.append(frequency_energy(fit_characters(weights @ aligned / n, logits.group), logits.group))
    return torch.cat(spectra)
