"""Diagnoses of runs that are told by hand: a value for each quantity and checkpoint."""

from pathlib import Path

from circuit_lab.verdict import Diagnosis, Evidence, Share, Verdict
from circuit_lab.verdict.diagnosis import Certificate
from circuit_lab.verdict.runs import RunDiagnosis, StepVerdict, TimelinePoint
from circuit_lab.verdict.runs.diagnose import read_run
from circuit_lab.verdict.runs.quantities import family_of

HALF_WIDTH = 0.04
CHANCE = 0.05


def told_run(*leaks: str, **stories) -> RunDiagnosis:
    """A two-hop run at steps 10, 20, ...; quantities are named without comma and with _ for blanks, others are 0."""
    diagnosis = _two_hop_diagnosis(leaks)
    family, points = family_of(diagnosis), []
    n = max(map(len, stories.values()))
    for i in range(n):
        for one in family.quantities:
            value = stories.get(one.name.replace(",", "").replace(" ", "_"), (0.0,) * n)[i]
            low, high = max(value - HALF_WIDTH, 0.0), min(value + HALF_WIDTH, 1.0)
            threshold = one.levels[0].threshold if one.levels else None
            points.append(TimelinePoint(10 * (i + 1), one.name, value, low, high, 100, threshold, one.unit))
    verdicts = [StepVerdict(10 * (i + 1), Verdict.SEMI_GROKKED, 0.5, f"step-{i}", "0") for i in range(n)]
    return read_run(Path("told"), family, diagnosis, verdicts, points)


def _two_hop_diagnosis(leaks: tuple[str, ...]) -> Diagnosis:
    """What a run takes from any of its diagnoses: chance, task, net and certificate."""
    return Diagnosis(
        source="told",
        family="two_hop",
        task="a task",
        verdict=Verdict.SEMI_GROKKED,
        confidence=0.5,
        candidates={},
        reasons=(),
        rests_on=(),
        warnings=(),
        outcomes=(),
        evidence=(Evidence.of_accuracy("test_ood", Share(5, 100), chance=CHANCE, decides=True),),
        sites=(),
        certificate=Certificate(not leaks, leaks, {}, {}, {}, {}, "0"),
        step=10,
        net="a net",
        seed=0,
        n_partners=6,
        max_queries_per_split=10_000,
        n_candidates=0,
        n_interventions=0,
    )


STORY = {
    "training": (0.5, 0.99, 0.99, 0.99, 0.99),
    "mediation_training": (0.0, 0.1, 0.8, 0.9, 0.9),
    "ID": (0.0, 0.2, 0.9, 0.9, 0.9),
    "OOD": (0.02, 0.02, 0.02, 0.9, 0.3),
}
