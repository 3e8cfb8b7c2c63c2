"""From a modular-arithmetic checkpoint to a diagnosis.

1. Name the key frequencies on a quarter of the held-out pairs, which is used for nothing else: ablations read on the
   pairs that chose the frequencies would flatter them.
2. Split the logits into the generalising part and the rest, fitted on the other held-out pairs. Answer the pairs of
   every split without the key frequencies, with nothing else, and without random subspaces.
3. Name each pair's outcome, and let the rules name the verdict.
4. Resample the pairs for intervals and confidence; where a deciding interval straddles its threshold: `inconclusive`.
5. Where the net does not generalise: had an earlier state of its weights?

Where nobody knows which pairs were trained on, all pairs take the place of the held-out ones, and the rules are those
of `unknown_split`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch

from circuit_lab.measures import (
    INPUTS,
    FrequencyAblation,
    PairLogits,
    TrigDecomposition,
    decompose,
    frequency_ablation,
    pair_logits,
    rows_of,
)
from circuit_lab.tasks import ModularTask
from circuit_lab.tasks.modular import ALL_PAIRS
from circuit_lab.tasks.stable_random import Purpose, permutation
from circuit_lab.verdict.checks import Decision, Share, share_right
from circuit_lab.verdict.diagnosis import Certificate, Diagnosis, SplitOutcomes, rests_on
from circuit_lab.verdict.modular.ancestor import Ancestor, find_ancestor
from circuit_lab.verdict.modular.evidence import gather_evidence, row_of
from circuit_lab.verdict.modular.explain import plain_reasons, plain_warnings, verdict_in_a_sentence
from circuit_lab.verdict.modular.outcomes import Outcome, outcomes_of
from circuit_lab.verdict.modular.rules import HeldOutPairs, Readings, bootstrap, decide
from circuit_lab.verdict.modular.unknown_split import decide_without_split
from circuit_lab.verdict.settings import Settings
from circuit_lab.verdict.subject import Subject
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS
from circuit_lab.verdict.verdicts import Verdict

N_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class ModularMeasurements:
    """What the evidence was read from.

    Attributes:
        subject: The net and its task.
        key_frequencies: Those ablated, strongest first; named on held-out pairs that nothing else is read on.
        decomposition: Both parts of the logits, fitted on the held-out pairs that decide.
        decomposition_of_all: The same fitted on all pairs, for comparison with published figures only.
        ablations: Per split, the answers without the key frequencies and without random subspaces.
        queries: Per split a table with one row per pair: tokens, answers, outcome.
    """

    subject: Subject[ModularTask]
    key_frequencies: tuple[str, ...]
    decomposition: TrigDecomposition
    decomposition_of_all: TrigDecomposition
    ablations: Mapping[str, FrequencyAblation]
    queries: Mapping[str, pd.DataFrame]


@dataclass(frozen=True, eq=False)
class _Measured:
    """Everything measured of one net.

    Attributes:
        logits: Of all pairs.
        key_frequencies: Named on pairs that are in none of the splits read.
        members: Per split, which pairs belong to it.
        rows: Per split, the rows read: all of it, or a sample.
        held_out: The split that decides: held-out pairs, or all where nobody knows which were held out.
        decomposition: Fitted on that split.
        ablations: Per split, on the rows read.
        has_circuit: Whether held-out logits show a choice of frequencies at all.
        training: Right answers among the training pairs; None where nobody knows which they are.
    """

    logits: PairLogits
    key_frequencies: tuple[str, ...]
    members: Mapping[str, torch.Tensor]
    rows: Mapping[str, torch.Tensor]
    held_out: str
    decomposition: TrigDecomposition
    ablations: Mapping[str, FrequencyAblation]
    has_circuit: bool
    training: Share | None

    @property
    def tested_at_inputs(self) -> bool:
        """Whether the key frequencies were removed at the inputs, and not at the answer alone."""
        return INPUTS in self.ablations[self.held_out].sites

    @property
    def held_out_pairs(self) -> HeldOutPairs:
        """What the rules read of the pairs that decide."""
        ablation = self.ablations[self.held_out]
        return HeldOutPairs(
            group=self.logits.group,
            aligned=self.logits[self.rows[self.held_out]].aligned(),
            right=ablation.right,
            mediated=ablation.mediated & self.has_circuit,
            alone=torch.stack([site.right_with_only for site in ablation.sites.values()]).all(0)
            if self.training is None
            else None,
        )


def diagnose_modular(subject: Subject[ModularTask], settings: Settings) -> Diagnosis:
    """Diagnose a modular net."""
    seed = settings.seed

    def diagnose_earlier(earlier: Subject[ModularTask]) -> Diagnosis:
        return diagnose_modular(earlier, settings)

    measured = _measure(subject, seed, settings.max_queries_per_split)
    pairs, ancestor = measured.held_out_pairs, None
    rules = partial(decide, had_grokked=False)
    if measured.training is None:
        rules = partial(decide_without_split, tested_at_inputs=measured.tested_at_inputs)
    readings, candidates = bootstrap(pairs, measured.training, rules, n_resamples=N_RESAMPLES, seed=seed)
    if candidates.keys() & {Verdict.MEMORISING, Verdict.SEMI_GROKKED}:
        ancestor = find_ancestor(subject.checkpoint, diagnose_earlier)
    if ancestor is not None and ancestor.had_grokked:
        rules = partial(decide, had_grokked=True)
        readings, candidates = bootstrap(pairs, measured.training, rules, n_resamples=N_RESAMPLES, seed=seed)
    decision = rules(readings)
    return _assemble(subject, measured, readings, decision, candidates, ancestor, settings)


def _measure(subject: Subject[ModularTask], seed: int, max_queries: int) -> _Measured:
    net, task = subject.net, subject.task
    generator = torch.Generator().manual_seed(seed)
    logits = pair_logits(net, task.pairs, task.group)
    held_out = deciding_split(task)
    whole = {name: rows_of(logits, split) for name, split in task.splits.items()}
    is_known = task.certificate.is_known
    # A quarter of all test pairs, so that what is left of them is a fair sample; of these, the pairs that decide name.
    set_aside = _sample_quarter(whole["test"], generator) if is_known else _draw_quarter(whole[held_out], seed)
    members = {name: of_split & ~set_aside for name, of_split in whole.items()}
    naming = set_aside & whole[held_out]
    key_frequencies = decompose(logits, {"naming": naming if naming.any() else set_aside}, fit="naming").key_frequencies
    decomposition = decompose(logits, members, fit=held_out)
    rows = {name: _sample(of_split, max_queries, generator) for name, of_split in members.items()}
    return _Measured(
        logits=logits,
        key_frequencies=key_frequencies,
        members=members,
        rows=rows,
        held_out=held_out,
        decomposition=decomposition if is_known else _beside_a_memoriser_of_everything(decomposition, logits),
        ablations=_ablate(subject, logits, rows, key_frequencies, generator),
        has_circuit=shows_circuit(decomposition, held_out),
        training=share_right(net, task.training) if is_known else None,
    )


def _beside_a_memoriser_of_everything(decomposition: TrigDecomposition, logits: PairLogits) -> TrigDecomposition:
    """Any pair may be a training pair, so what is fitted stands beside what a table of all pairs would reach."""
    return replace(decomposition, memoriser_baseline=float((logits.label == logits.result).double().mean()))


def _assemble(
    subject: Subject[ModularTask],
    measured: _Measured,
    readings: Readings,
    decision: Decision,
    candidates: Mapping[str, float],
    ancestor: Ancestor | None,
    settings: Settings,
) -> Diagnosis:
    task, held_out, ablations = subject.task, measured.held_out, measured.ablations
    measurements = _measurements(subject, measured)
    in_words = verdict_in_a_sentence(
        decision, is_known=task.certificate.is_known, tested_at_inputs=measured.tested_at_inputs
    )
    reasons = plain_reasons(decision, in_words, measured.decomposition, measured.key_frequencies, ancestor)
    evidence = gather_evidence(
        subject.net,
        task,
        readings,
        measured.decomposition,
        measurements.decomposition_of_all,
        ablations,
        key_frequencies=measured.key_frequencies,
        held_out=held_out,
    )
    outcomes = tuple(_split_outcomes(name, measured, measurements.queries[name]) for name in ablations)
    n_pairs_read = len(torch.cat(list(measured.rows.values())).unique())
    return Diagnosis(
        source=subject.source,
        family="modular",
        task=repr(task),
        verdict=decision.certain_verdict,
        confidence=decision.confidence(candidates),
        candidates=dict(candidates),
        reasons=tuple(reason.words for reason in reasons),
        rests_on=rests_on(reasons, evidence, row_of(held_out)),
        warnings=plain_warnings(task, outcomes, ablations[held_out], held_out, ancestor, decision.verdict),
        outcomes=outcomes,
        evidence=evidence,
        sites=tuple(site.stage for site in ablations[held_out].sites.values()),
        certificate=Certificate.of(task.certificate),
        step=subject.step,
        net=subject.net.cfg.in_words,
        seed=settings.seed,
        n_partners=settings.n_partners,
        max_queries_per_split=settings.max_queries_per_split,
        n_interventions=n_pairs_read * _n_ablations(ablations[held_out]),
        n_candidates=len(measured.logits.group.irreps),
        measurements=measurements,
    )


def _measurements(subject: Subject[ModularTask], measured: _Measured) -> ModularMeasurements:
    everything = dict(measured.members) | {ALL_PAIRS: torch.ones(len(measured.logits), dtype=torch.bool)}
    return ModularMeasurements(
        subject=subject,
        key_frequencies=measured.key_frequencies,
        decomposition=measured.decomposition,
        decomposition_of_all=decompose(measured.logits, everything, fit=ALL_PAIRS),
        ablations=measured.ablations,
        queries={
            name: measured.logits.queries[measured.rows[name]]
            .frame()
            .assign(right=ablation.right.numpy(), outcome=outcomes_of(ablation, has_circuit=measured.has_circuit))
            for name, ablation in measured.ablations.items()
        },
    )


def deciding_split(task: ModularTask) -> str:
    """The held-out pairs that decide: without mirrors in training, if there are any such; all, of an unknown split."""
    if not task.certificate.is_known:
        return ALL_PAIRS
    return "test_unmirrored" if len(task.splits["test_unmirrored"]) else "test"


def shows_circuit(decomposition: TrigDecomposition, held_out: str) -> bool:
    """Whether held-out logits show a choice of frequencies at all; if not, no answer counts as going through it."""
    explained = decomposition.splits[held_out].energy_share
    return (
        explained >= MODULAR_THRESHOLDS.not_explained and decomposition.concentration >= MODULAR_THRESHOLDS.concentrated
    )


def _sample_quarter(members: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A quarter of the members, at least one, but never all of them."""
    rows = torch.nonzero(members).squeeze(1)
    n = max(1, len(rows) // 4)
    drawn = torch.zeros_like(members)
    drawn[rows[torch.randperm(len(rows), generator=generator)[:n]]] = True
    return drawn


def _draw_quarter(members: torch.Tensor, seed: int) -> torch.Tensor:
    """The same from a stream of our own.

    By its torch.randperm another code with the same seed may have drawn its training pairs, which an unknown split may
    then be: the quarter would be training pairs alone, and what is left no fair sample.
    """
    rows = torch.nonzero(members).squeeze(1)
    order = torch.from_numpy(permutation(len(rows), seed=seed, purpose=Purpose.NAMING_PAIRS))
    drawn = torch.zeros_like(members)
    drawn[rows[order[: max(1, len(rows) // 4)]]] = True
    return drawn


def _sample(members: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Row numbers of a split, at most n of them."""
    rows = torch.nonzero(members).squeeze(1)
    return rows if len(rows) <= n else rows[torch.randperm(len(rows), generator=generator)[:n].sort().values]


def _n_ablations(ablation: FrequencyAblation) -> int:
    """Ablated answers per pair: without the key frequencies, with them only, and without each random subspace."""
    return len(ablation.sites) * (ablation.n_random + 2)


def _ablate(
    subject: Subject[ModularTask],
    logits: PairLogits,
    rows: Mapping[str, torch.Tensor],
    key_frequencies: tuple[str, ...],
    generator: torch.Generator,
) -> dict[str, FrequencyAblation]:
    """The ablation on the rows of each split, made once for pairs that are in several."""
    read, place = torch.cat(list(rows.values())).unique(return_inverse=True)
    ablation = frequency_ablation(
        subject.net,
        subject.task,
        logits.queries[read],
        key_frequencies=key_frequencies,
        generator=generator,
    )
    places = place.split([len(of_split) for of_split in rows.values()])
    return {name: ablation[of_split] for name, of_split in zip(rows, places, strict=True) if len(of_split)}


def _split_outcomes(name: str, measured: _Measured, queries: pd.DataFrame) -> SplitOutcomes:
    in_training, right, outcomes = (queries[column].to_numpy() for column in ("in_training", "right", "outcome"))
    return SplitOutcomes(
        split=name,
        n=len(queries),
        n_in_split=int(measured.members[name].sum()),
        n_in_training=None if measured.training is None else int(in_training.sum()),
        accuracy=float(right.mean()),
        shares={str(outcome): float((outcomes == outcome).mean()) for outcome in Outcome},
    )
