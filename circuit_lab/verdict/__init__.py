"""Evidence -> `Diagnosis`."""

from circuit_lab.verdict.checks import Check, Decision, Estimate, Share
from circuit_lab.verdict.comparison.compare import Comparison, compare
from circuit_lab.verdict.diagnose import diagnose
from circuit_lab.verdict.diagnosis import SCHEMA_PATH, Diagnosis, Evidence, SplitOutcomes, diagnosis_schema
from circuit_lab.verdict.runs import RunDiagnosis, diagnose_run
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS, THRESHOLDS, ModularThresholds, Thresholds
from circuit_lab.verdict.verdicts import Verdict

__all__ = [
    "MODULAR_THRESHOLDS",
    "SCHEMA_PATH",
    "THRESHOLDS",
    "Check",
    "Comparison",
    "Decision",
    "Diagnosis",
    "Estimate",
    "Evidence",
    "ModularThresholds",
    "RunDiagnosis",
    "Share",
    "SplitOutcomes",
    "Thresholds",
    "Verdict",
    "compare",
    "diagnose",
    "diagnose_run",
    "diagnosis_schema",
]
