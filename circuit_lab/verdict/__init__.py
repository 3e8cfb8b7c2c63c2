"""Evidence -> `Diagnosis`."""

from circuit_lab.verdict.diagnose import diagnose
from circuit_lab.verdict.diagnosis import SCHEMA_PATH, Diagnosis, Evidence, SplitOutcomes, diagnosis_schema
from circuit_lab.verdict.explain import IN_WORDS
from circuit_lab.verdict.outcomes import Outcome, OutcomeCounts, outcomes_of
from circuit_lab.verdict.rules import Check, Decision, Readings, Share, Verdict, decide, resampled_verdicts
from circuit_lab.verdict.thresholds import THRESHOLDS, Thresholds

__all__ = [
    "IN_WORDS",
    "SCHEMA_PATH",
    "THRESHOLDS",
    "Check",
    "Decision",
    "Diagnosis",
    "Evidence",
    "Outcome",
    "OutcomeCounts",
    "Readings",
    "Share",
    "SplitOutcomes",
    "Thresholds",
    "Verdict",
    "decide",
    "diagnose",
    "diagnosis_schema",
    "outcomes_of",
    "resampled_verdicts",
]
