"""The evidence table of a modular diagnosis: every number with its split, site, interval, control and n."""

import math
from collections.abc import Mapping, Sequence

from circuit_lab.measures import (
    PERIODIC_SHARE,
    FrequencyAblation,
    Interval,
    ProgressMeasures,
    TrigDecomposition,
    logit_efficiency,
    progress_measures,
    weight_norms,
)
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import ModularTask
from circuit_lab.verdict.checks import Estimate, Share, share_right
from circuit_lab.verdict.diagnosis import Evidence, Unit
from circuit_lab.verdict.modular import rules, unknown_split
from circuit_lab.verdict.modular.rules import Readings

_NORMAL_95 = 1.959964
EXPLAINED_ROW = "trig energy share"
CIRCUIT_ROW = "right answers through the key frequencies"
KEY_FREQUENCIES = "generalising part in the key frequencies"
WITHOUT_KEY, ONLY_KEY = "right without key frequencies", "right with key frequencies only"
ALONE_ROW = "right with nothing but the key frequencies"
_CONCENTRATION_ROW = "frequency concentration"


def gather_evidence(
    net: HookedNet,
    task: ModularTask,
    readings: Readings,
    decomposition: TrigDecomposition,
    decomposition_of_all: TrigDecomposition,
    ablations: Mapping[str, FrequencyAblation],
    *,
    key_frequencies: tuple[str, ...],
    held_out: str,
) -> tuple[Evidence, ...]:
    """Lay out accuracies, the parts of the logits, the spectrum and the ablations.

    Args:
        net: The net diagnosed.
        task: Its task.
        readings: The numbers that the rules read.
        decomposition: The parts of the logits, fitted on the held-out pairs that decide.
        decomposition_of_all: The same fitted on all pairs.
        ablations: The ablations per split.
        key_frequencies: Those ablated.
        held_out: Name of the split that decides; where nobody knows which pairs were trained on, there is no row of
            training pairs.

    Returns:
        Rows in reading order.
    """
    rows = _accuracy_rows(net, task, readings, held_out)
    rows += _decomposition_rows(readings, decomposition, decomposition_of_all)
    rows.append(
        _shown(
            KEY_FREQUENCIES,
            held_out,
            share_held(decomposition, key_frequencies),
            decomposition.splits[held_out].n,
            "share",
            control=len(key_frequencies) / len(decomposition.group.irreps),
            compared_with="a part with equal energy in every frequency; never decides",
        )
    )
    for split, ablation in ablations.items():
        rows += _ablation_rows(split, ablation)
    rows.append(
        Evidence.of(
            CIRCUIT_ROW,
            held_out,
            readings.circuit,
            compared_with="lost without the key frequencies at every site, and not without random subspaces",
            decides=True,
        )
    )
    if readings.alone is not None:
        rows.append(
            Evidence.of(
                ALONE_ROW,
                held_out,
                readings.alone,
                compared_with="at every site; a net that also memorises loses what it has by heart",
                decides=True,
            )
        )
    fit = "held_out" if held_out == "test_unmirrored" else "all"
    progress = progress_measures(net, task, key_frequencies=key_frequencies, fit=fit)
    rows += _progress_rows(progress, held_out)
    rows += _efficiency_rows(net, task)
    return tuple(rows)


def share_held(decomposition: TrigDecomposition, key_frequencies: Sequence[str]) -> float:
    """Share of the generalising part's energy in the key frequencies, in [0, 1]."""
    rows = [decomposition.group.irreps.index(name) for name in key_frequencies]
    return float(decomposition.frequency_energy[rows].sum())


def row_of(held_out: str) -> dict[str, tuple[str, str]]:
    """Name and split of the rows that state a quantity of the rules, where `held_out` is the split that decides."""
    return {
        rules.TRAINING: ("accuracy", "train"),
        rules.HELD_OUT: ("accuracy", held_out),
        rules.EXPLAINED: (EXPLAINED_ROW, held_out),
        rules.CONCENTRATION: (_CONCENTRATION_ROW, held_out),
        rules.CIRCUIT: (CIRCUIT_ROW, held_out),
        unknown_split.ACCURACY: ("accuracy", held_out),
        unknown_split.EXPLAINED: (EXPLAINED_ROW, held_out),
        unknown_split.CIRCUIT: (CIRCUIT_ROW, held_out),
        unknown_split.ALONE: (ALONE_ROW, held_out),
        KEY_FREQUENCIES: (KEY_FREQUENCIES, held_out),
    }


def _accuracy_rows(net: HookedNet, task: ModularTask, readings: Readings, held_out: str) -> list[Evidence]:
    """Accuracy of every split, against the best answer that ignores the question."""
    read = {held_out: readings.held_out}
    if readings.training is not None:
        read["train"] = readings.training
    return [
        Evidence.of_accuracy(
            split,
            read[split] if split in read else share_right(net, queries),
            chance=task.chance[split],
            decides=split in read,
        )
        for split, queries in task.splits.items()
        if len(queries)
    ]


def _decomposition_rows(
    readings: Readings, decomposition: TrigDecomposition, decomposition_of_all: TrigDecomposition
) -> list[Evidence]:
    fitted = decomposition.fitted_on
    memoriser = "a pure memoriser of the training pairs" if readings.training is not None else "a table of all pairs"
    rows = [
        Evidence.of(
            EXPLAINED_ROW,
            fitted,
            readings.explained,
            control=decomposition.memoriser_baseline,
            compared_with=f"{memoriser}, fitted on the same pairs",
            decides=True,
        ),
        Evidence.of(
            _CONCENTRATION_ROW,
            fitted,
            readings.concentration,
            control=0.0,
            compared_with="a flat table of answers, which has every frequency",
            decides=True,
        ),
    ]
    if fitted != "all":
        of_all = decomposition_of_all.splits["all"]
        rows.append(
            _shown(
                EXPLAINED_ROW,
                "all",
                of_all.energy_share,
                of_all.n,
                "share",
                control=decomposition_of_all.memoriser_baseline,
                compared_with=f"{memoriser}; for comparison with papers, never decides",
            )
        )
    return rows + _logit_rows(decomposition)


def _logit_rows(decomposition: TrigDecomposition) -> list[Evidence]:
    """Correct logit of the generalising part, one for all pairs, and of the rest, on each split that was not fitted."""
    fitted = decomposition.splits[decomposition.fitted_on]
    rows = [
        Evidence.of(
            "correct logit, generalising part",
            decomposition.fitted_on,
            _normal_estimate(fitted.correct_logit_generalising, fitted.correct_logit_error, fitted.n),
            unit="logits",
        )
    ]
    for split, parts in decomposition.splits.items():
        if split == decomposition.fitted_on:
            continue
        error = (parts.correct_logit_error**2 + fitted.correct_logit_error**2) ** 0.5
        rows.append(
            Evidence.of(
                "correct logit, remaining part",
                split,
                _normal_estimate(parts.correct_logit_remaining, error, parts.n),
                unit="logits",
                control=0.0,
                compared_with="the pairs fitted on, where it is 0 by construction; positive on train is memory",
            )
        )
    return rows


def _normal_estimate(value: float, error: float, n: int) -> Estimate:
    """A mean with its 95 % interval from the standard error."""
    half_width = _NORMAL_95 * error
    return Estimate(value, Interval(value - half_width, value + half_width), n)


def _shown(
    name: str, split: str, value: float, n: int, unit: Unit, *, control: float | None = None, compared_with: str = ""
) -> Evidence:
    """A number that corroborates, without an interval."""
    return Evidence(
        name=name,
        split=split,
        site="",
        value=value if math.isfinite(value) else None,
        low=None,
        high=None,
        n=n,
        unit=unit,
        control=control,
        compared_with=compared_with,
        decides=False,
    )


def _progress_rows(progress: ProgressMeasures, held_out: str) -> list[Evidence]:
    """Restricted and excluded loss, periodic neurons, Gini: they show progress and never decide."""
    losses, rows = progress.losses, []
    for name, values, split in (
        ("restricted loss", losses.restricted_loss, held_out),
        ("excluded loss", losses.excluded_loss, "train"),
    ):
        if split in values:
            whole = losses.loss[split]
            rows.append(_shown(name, split, values[split], losses.n[split], "nats", control=whole))
    if progress.neurons is not None and progress.spectra is not None:
        varying = progress.neurons.best_share[progress.neurons.varies]
        periodic = Share(int((varying > PERIODIC_SHARE).sum()), len(varying))
        rows.append(Evidence.of("periodic neurons", "all pairs", periodic, compared_with="never decides"))
        gini = progress.spectra.embedding_gini
        rows.append(
            _shown("Gini of the embedding's frequencies", "weights", gini, len(progress.spectra.embedding), "Gini")
        )
    return rows


def _efficiency_rows(net: HookedNet, task: ModularTask) -> list[Evidence]:
    """What the weights buy on the training pairs, as trained; on all pairs where nobody knows which they are."""
    split, queries = ("train", task.training) if task.certificate.is_known else ("all", task.pairs)
    found = logit_efficiency(net, queries)
    return [
        Evidence.of_weight_norm(weight_norms(net)),
        _shown("correct logit for each unit of norm", split, found.efficiency, found.n, "logits per norm"),
        Evidence.of(
            "softmax collapse, float64",
            split,
            Share(round(found.collapsed_float64 * found.n), found.n),
            control=found.collapsed_float32,
            compared_with="the same logits in float32",
        ),
    ]


def _ablation_rows(split: str, ablation: FrequencyAblation) -> list[Evidence]:
    n, rows = len(ablation.right), []
    for site in ablation.sites.values():
        rank = f"{site.site}, rank {site.rank} of {site.n_dimensions}"
        rows += [
            Evidence.of(
                WITHOUT_KEY,
                split,
                Share(int(site.right_without.sum()), n),
                site=rank,
                control=site.control_rate,
                compared_with=f"right without random subspaces of the same rank (mean of {ablation.n_random})",
            ),
            Evidence.of(
                ONLY_KEY,
                split,
                Share(int(site.right_with_only.sum()), n),
                site=rank,
            ),
        ]
    return rows
