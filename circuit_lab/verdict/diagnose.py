"""From a checkpoint to a diagnosis.

1. Answer every query of every split.
2. Locate the sites that hand on the bridge, on a sample of `train_inferred`.
3. Run the three causal tests at these sites on the other queries of `train_inferred` and on the other splits.
4. Name each query's outcome, count them, and let the rules name the verdict.
5. Resample the queries for the confidence; where a deciding interval straddles its threshold: `inconclusive`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from circuit_lab.measures import (
    CausalTests,
    LocatedSites,
    known_good,
    locate_sites,
    predicted_answers,
)
from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.tasks import Queries, TwoHopTask
from circuit_lab.training import load_checkpoint, resolve_checkpoint, resolve_device
from circuit_lab.verdict.diagnosis import Certificate, Diagnosis, Measurements, SplitOutcomes
from circuit_lab.verdict.evidence import gather_evidence
from circuit_lab.verdict.explain import plain_reasons, plain_warnings
from circuit_lab.verdict.outcomes import Outcome
from circuit_lab.verdict.reading import SplitReading, read_split
from circuit_lab.verdict.rules import Decision, Readings, Share, Verdict, decide, resampled_verdicts

TWO_HOP_SPLITS = ("train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood")
MAX_LOCATING_QUERIES = 256
"""Queries that locate the sites: enough for a 95 % interval of +-6 points, and a small part of `train_inferred`."""
N_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Subject:
    """What is diagnosed: a net, the task whose queries it is asked, and where both come from."""

    net: HookedSharedTransformer
    task: TwoHopTask
    source: str
    step: int | None


def diagnose(
    checkpoint: str | Path | tuple[HookedSharedTransformer, TwoHopTask],
    *,
    seed: int = 0,
    n_partners: int = 6,
    max_queries_per_split: int = 10_000,
    device: str = "cpu",
) -> Diagnosis:
    """Tell whether a two-hop net answers through the bridge, by causal evidence.

    Args:
        checkpoint: A checkpoint file, a run folder (its last checkpoint), a reference model's folder, or a pair
            (net, task).
        seed: Seed of the partners, the samples and the resamples; the global random state is neither used nor moved.
        n_partners: Transplants per query, test and site.
        max_queries_per_split: Larger splits are sampled down to this many queries, with a warning.
        device: Where the net of a checkpoint runs: "auto", "cpu", "cuda", "mps"; a net in memory stays where it is.

    Returns:
        The verdict, with outcomes, evidence, intervals, controls and warnings.

    A checkpoint that cannot be read is a ValueError that says what is wrong, where, and the fix.
    """
    subject = _subject(checkpoint, device=device)
    was_training = subject.net.training
    subject.net.eval()
    try:
        return _diagnose(subject, seed, n_partners, max_queries_per_split)
    finally:
        subject.net.train(was_training)


def _subject(checkpoint: str | Path | tuple[HookedSharedTransformer, TwoHopTask], *, device: str) -> Subject:
    if isinstance(checkpoint, tuple):
        net, task = checkpoint
        return Subject(net=net, task=task, source="a net and its task, in memory", step=None)
    loaded = load_checkpoint(resolve_checkpoint(checkpoint), device=str(resolve_device(device)))
    return Subject(net=loaded.net, task=loaded.task, source=str(checkpoint), step=loaded.step)


def _diagnose(subject: Subject, seed: int, n_partners: int, max_queries: int) -> Diagnosis:
    net, task = subject.net, subject.task
    generator = torch.Generator().manual_seed(seed)
    training_right = int((predicted_answers(net, task.training) == task.training.answer).sum())
    locating, splits = _split_off_locating(task, generator)
    pool = known_good(net, task.splits["train_inferred"].sample(4 * max_queries, generator=generator))
    if len(pool) == 0:
        pool = locating  # a net that answers nothing: the tests run, and all of them fail
    located = locate_sites(net, locating, pool, generator=generator)
    readings = {
        name: read_split(
            net,
            queries.sample(max_queries, generator=generator),
            len(queries),
            pool,
            located,
            generator,
            n_partners,
        )
        for name, queries in splits.items()
        if len(queries)
    }
    rule_readings = Readings(
        training=Share(training_right, len(task.training)),
        test_id=readings["test_id"].counts,
        test_ood=readings["test_ood"].counts,
    )
    decision = decide(rule_readings)
    candidates = resampled_verdicts(rule_readings, n_resamples=N_RESAMPLES, seed=seed)
    verdict = Verdict.INCONCLUSIVE if any(c.straddles for c in decision.checks) else decision.verdict
    return _assemble(subject, rule_readings.training, readings, located, decision, verdict, candidates, seed)


def _split_off_locating(task: TwoHopTask, generator: torch.Generator) -> tuple[Queries, Mapping[str, Queries]]:
    """Training queries that locate the sites, and per split the others, on which the evidence is read."""
    training = task.splits["train_inferred"]
    order = torch.randperm(len(training), generator=generator)
    n_locating = min(MAX_LOCATING_QUERIES, len(training) // 2)
    locating, rest = training[order[:n_locating]], training[order[n_locating:].sort().values]
    return locating, {name: task.splits[name] for name in TWO_HOP_SPLITS} | {"train_inferred": rest}


def _assemble(
    subject: Subject,
    training: Share,
    readings: Mapping[str, SplitReading],
    located: LocatedSites,
    decision: Decision,
    verdict: Verdict,
    candidates: Mapping[str, float],
    seed: int,
) -> Diagnosis:
    task = subject.task
    outcomes = tuple(_split_outcomes(name, reading) for name, reading in readings.items())
    leading = str(verdict) if verdict != Verdict.INCONCLUSIVE else next(iter(candidates))
    certificate = task.certificate
    return Diagnosis(
        source=subject.source,
        verdict=verdict,
        confidence=candidates.get(leading, 0.0),
        candidates=dict(candidates),
        reasons=plain_reasons(decision, verdict, located),
        warnings=plain_warnings(certificate, outcomes, located, readings["test_ood"].lens, decision.verdict),
        outcomes=outcomes,
        evidence=gather_evidence(subject.net, task, training, readings, located),
        sites=tuple(site.label(located.position_names) for site in located.sites) if located.found else (),
        certificate=Certificate(
            clean=certificate.is_clean,
            leaks=certificate.leaks,
            n_queries=dict(certificate.n_queries),
            n_in_training=dict(certificate.n_in_training),
            ood_fact_uses={hop: dict(uses) for hop, uses in certificate.ood_fact_uses.items()},
            task_hash=certificate.task_hash,
        ),
        step=subject.step,
        net=_describe(subject.net),
        seed=seed,
        n_transplants=sum(_n_transplants(reading.tests) for reading in readings.values()),
        measurements=Measurements(
            located=located,
            tests={name: reading.tests for name, reading in readings.items()},
            lens={name: reading.lens for name, reading in readings.items()},
            queries={name: reading.frame() for name, reading in readings.items()},
        ),
    )


def _split_outcomes(name: str, reading: SplitReading) -> SplitOutcomes:
    counts = reading.counts
    return SplitOutcomes(
        split=name,
        n=counts.n,
        n_in_split=reading.n_in_split,
        n_in_training=int(reading.queries.in_training.sum()),
        accuracy=counts.n_right / counts.n,
        shares={str(outcome): counts.counts[outcome] / counts.n for outcome in Outcome},
    )


def _n_transplants(tests: CausalTests) -> int:
    per_site = sum(
        int(t.exists.sum()) for t in (tests.hop1, tests.hop1, tests.hop2, tests.interchange, tests.interchange)
    )
    return per_site * len(tests.sites)


def _describe(net: HookedSharedTransformer) -> str:
    cfg = net.cfg
    shared = f"{cfg.n_layers} layers over {len(set(cfg.layer_map))} block(s), layer_map {tuple(cfg.layer_map)}"
    norm = f"{cfg.norm_position}-{cfg.normalization_type}" if cfg.normalization_type else "no norm"
    return f"{cfg.attention_dir} transformer, {shared}, width {cfg.d_model}, {cfg.n_heads} heads, {norm}"
