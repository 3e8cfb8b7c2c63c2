"""Verdicts, reasons and warnings in plain words."""

from collections.abc import Sequence

from circuit_lab.measures import BridgeRecovery, LocatedSites, Site
from circuit_lab.measures.sites import lens_places
from circuit_lab.nets import LensSite
from circuit_lab.tasks import SplitCertificate
from circuit_lab.verdict.checks import Decision, Reason
from circuit_lab.verdict.diagnosis import SplitOutcomes
from circuit_lab.verdict.thresholds import THRESHOLDS
from circuit_lab.verdict.two_hop.evidence import LOCATING
from circuit_lab.verdict.two_hop.outcomes import Outcome
from circuit_lab.verdict.verdicts import Verdict

IN_WORDS = {
    Verdict.UNTRAINED: "The training queries are not learnt; nothing can be said of generalisation.",
    Verdict.MEMORISING: "The training queries are learnt and held-out ones are not: this net memorises.",
    Verdict.ID_CIRCUIT: "It composes facts through the bridge where they were composed in training, and not beyond.",
    Verdict.FIRST_HOP_FAILURE: "It composes in distribution; out of distribution the first hop fails.",
    Verdict.SECOND_HOP_FAILURE: "It composes in distribution; out of distribution the second hop fails.",
    Verdict.FAKE_GROKKING: "Out-of-distribution answers are right, but mostly not through the bridge.",
    Verdict.TRUE_CIRCUIT: "Out-of-distribution answers are right, and they go through the bridge.",
    Verdict.SEMI_GROKKED: "Generalisation is partial, or its mechanisms are too mixed to call.",
    Verdict.INCONCLUSIVE: "The intervals straddle a threshold: more queries are needed to call it.",
}


def plain_reasons(decision: Decision, located: LocatedSites) -> tuple[Reason, ...]:
    """The verdict in a sentence, then what it rested on, deciding comparison first."""
    reasons = decision.reasons(IN_WORDS[decision.certain_verdict])
    names = located.position_names
    n = max((c.n for c in located.candidates), default=0)
    tried = f"{len(located.candidates)} sites, tried on {n} training queries that nothing else is read on"
    if located.found:
        sites = ", ".join(site.label(names) for site in located.sites)
        words = f"Training queries hand on their bridge at {sites} (of {tried})."
        if any(isinstance(site, Site) and site.held for site in located.sites):
            words += (
                ' "On": put in again at every later step, for a recursive net computes the bridge anew in each cycle.'
            )
    elif n == 0:
        words = "No site could be tried: too few training queries are answered right to receive a state."
    else:
        words = f"Training queries do not hand on their bridge at any of {tried}."
    return (*reasons, Reason(words, (LOCATING,)))


def plain_warnings(
    certificate: SplitCertificate,
    outcomes: Sequence[SplitOutcomes],
    located: LocatedSites,
    ood_lens: BridgeRecovery,
    verdict: Verdict,
    stages: Sequence[LensSite],
) -> tuple[str, ...]:
    """What weakens or limits the verdict, gravest first."""
    warnings = [f"Certificate: {leak}." for leak in certificate.leaks]
    for split in outcomes:
        untestable = split.shares[Outcome.UNTESTABLE]
        if untestable > THRESHOLDS.max_untestable:
            warnings.append(f"{split.split}: {untestable:.0%} of the queries have too few partners to be tested.")
        if split.n < split.n_in_split:
            warnings.append(f"{split.split}: read on a sample of {split.n} of {split.n_in_split} queries.")
    if verdict == Verdict.FAKE_GROKKING and ood_lens.bridge_found > THRESHOLDS.solved:
        warnings.append(
            f"The lens finds the bridge in {ood_lens.bridge_found:.0%} of test_ood queries although the answers do not "
            "go through it: decodable is not used."
        )
    if (
        located.found
        and verdict == Verdict.TRUE_CIRCUIT
        and _lens_rate_at_sites(ood_lens, located, stages) < THRESHOLDS.unsolved
    ):
        warnings.append(
            "The lens does not read the bridge where the transplants find it: used is not always decodable."
        )
    return tuple(warnings)


def _lens_rate_at_sites(lens: BridgeRecovery, located: LocatedSites, stages: Sequence[LensSite]) -> float:
    """Highest lens rate of the bridge at any located site."""
    return max(
        float(lens.bridge_top1[lens.stages.index(stage), position])
        for site in located.sites
        for stage, position in lens_places(site, stages)
    )
