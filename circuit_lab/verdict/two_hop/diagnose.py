"""From a two-hop checkpoint to a diagnosis.

1. Answer every query of every split.
2. Divide `train_inferred`, for evidence read on the queries that chose a site would flatter it. Locate the sites that
   hand on the bridge on one part; see which queries of another compose there and are fit to be partners.
3. Run the three causal tests at these sites on a third part and on the other splits.
4. Name each query's outcome, count them, and let the rules name the verdict.
5. Resample the queries for the confidence; where a deciding interval straddles its threshold: `inconclusive`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch

from circuit_lab.measures import (
    BridgeRecovery,
    CausalTests,
    LocatedSites,
    known_good,
    locate_sites,
    partner_fitness,
)
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries, TwoHopTask
from circuit_lab.verdict.checks import Decision, Share, share_right_of_sample
from circuit_lab.verdict.diagnosis import Certificate, Diagnosis, SplitOutcomes, rests_on
from circuit_lab.verdict.settings import Settings
from circuit_lab.verdict.subject import Subject
from circuit_lab.verdict.two_hop.evidence import ROW_OF, gather_evidence
from circuit_lab.verdict.two_hop.explain import plain_reasons, plain_warnings
from circuit_lab.verdict.two_hop.outcomes import Outcome
from circuit_lab.verdict.two_hop.reading import Partnership, SplitReading, read_split
from circuit_lab.verdict.two_hop.rules import Readings, decide, resampled_verdicts

TWO_HOP_SPLITS = ("train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood")
MAX_LOCATING_QUERIES = 256
"""Queries that locate the sites: enough for a 95 % interval of +-6 points, and a small part of `train_inferred`."""
N_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class TwoHopMeasurements:
    """What the evidence was read from.

    Attributes:
        subject: The net and its task.
        located: Candidate sites with their hop-1 rates on training queries.
        tests: The causal tests per split, at the located sites.
        lens: Bridge recovery per split.
        queries: Per split a table with one row per query: tokens, answers, the three tests, outcome.
    """

    subject: Subject[TwoHopTask]
    located: LocatedSites
    tests: Mapping[str, CausalTests]
    lens: Mapping[str, BridgeRecovery]
    queries: Mapping[str, pd.DataFrame]


def diagnose_two_hop(subject: Subject[TwoHopTask], settings: Settings) -> Diagnosis:
    """Diagnose a two-hop net."""
    net, task, seed, max_queries = subject.net, subject.task, settings.seed, settings.max_queries_per_split
    generator = torch.Generator().manual_seed(seed)
    parts = divide_training(task.splits["train_inferred"], generator, max_queries=max_queries)
    splits = {name: task.splits[name] for name in TWO_HOP_SPLITS} | {"train_inferred": parts.reading}
    located = locate_sites(net, parts.locating, _known_good_or_all(net, parts.receivers), generator=generator)
    pool = _known_good_or_all(net, parts.partners)
    fitness = partner_fitness(net, pool, sites=located.sites, generator=generator) if located.found else None
    readings = {
        name: read_split(
            net,
            queries.sample(max_queries, generator=generator),
            len(queries),
            Partnership(pool, fitness, settings.n_partners),
            located,
            generator,
        )
        for name, queries in splits.items()
        if len(queries)
    }
    rule_readings = Readings(
        training=share_right_of_sample(net, task.training, seed),
        test_id=readings["test_id"].counts,
        test_ood=readings["test_ood"].counts,
    )
    decision = decide(rule_readings)
    candidates = resampled_verdicts(rule_readings, n_resamples=N_RESAMPLES, seed=seed)
    return _assemble(subject, rule_readings.training, readings, located, decision, candidates, settings)


@dataclass(frozen=True, eq=False)
class TrainingParts:
    """`train_inferred`, divided into parts that share no query.

    Attributes:
        locating: Locate the sites.
        receivers: Receive their states in locating.
        partners: Lend and receive states where the evidence is read.
        reading: The evidence is read on them.
    """

    locating: Queries
    receivers: Queries
    partners: Queries
    reading: Queries


def divide_training(training: Queries, generator: torch.Generator, *, max_queries: int) -> TrainingParts:
    """Divide `train_inferred`: at most a sixth, a sixth and a half, and the rest, which no verdict rests on.

    Args:
        training: The queries.
        generator: Draws the parts.
        max_queries: Queries read of a split at most; there are up to four times as many partners.

    Returns:
        The parts.
    """
    n = len(training)
    sizes = [min(MAX_LOCATING_QUERIES, n // 6), min(4 * MAX_LOCATING_QUERIES, n // 6), min(4 * max_queries, n // 2)]
    drawn = torch.randperm(n, generator=generator).split([*sizes, n - sum(sizes)])
    return TrainingParts(*(training[rows.sort().values] for rows in drawn))


def _known_good_or_all(net: HookedNet, queries: Queries) -> Queries:
    """Queries fit to be partners; of a net that answers none of them, all: the tests run, and all of them fail."""
    good = known_good(net, queries)
    return good if len(good) else queries


def _assemble(
    subject: Subject[TwoHopTask],
    training: Share,
    readings: Mapping[str, SplitReading],
    located: LocatedSites,
    decision: Decision,
    candidates: Mapping[str, float],
    settings: Settings,
) -> Diagnosis:
    task = subject.task
    reasons = plain_reasons(decision, located)
    evidence = gather_evidence(subject.net, task, training, readings, located, settings.seed)
    outcomes = tuple(_split_outcomes(name, reading) for name, reading in readings.items())
    certificate = task.certificate
    return Diagnosis(
        source=subject.source,
        family="two_hop",
        task=repr(task),
        verdict=decision.certain_verdict,
        confidence=decision.confidence(candidates),
        candidates=dict(candidates),
        reasons=tuple(reason.words for reason in reasons),
        rests_on=rests_on(reasons, evidence, ROW_OF),
        warnings=plain_warnings(
            certificate, outcomes, located, readings["test_ood"].lens, decision.verdict, subject.net.lens_sites
        )
        + _warnings_of_sample(training, len(task.training)),
        outcomes=outcomes,
        evidence=evidence,
        sites=tuple(site.label(located.position_names) for site in located.sites) if located.found else (),
        certificate=Certificate.of(certificate),
        step=subject.step,
        net=subject.net.cfg.in_words,
        seed=settings.seed,
        n_partners=settings.n_partners,
        max_queries_per_split=settings.max_queries_per_split,
        n_interventions=sum(_n_transplants(reading.tests) for reading in readings.values()),
        n_candidates=len(located.candidates),
        measurements=TwoHopMeasurements(
            subject=subject,
            located=located,
            tests={name: reading.tests for name, reading in readings.items()},
            lens={name: reading.lens for name, reading in readings.items()},
            queries={name: reading.frame() for name, reading in readings.items()},
        ),
    )


def _warnings_of_sample(training: Share, n: int) -> tuple[str, ...]:
    return (f"training items: read on a sample of {training.n} of {n}.",) if training.n < n else ()


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
