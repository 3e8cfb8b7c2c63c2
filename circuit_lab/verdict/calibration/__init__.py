"""Controls whose verdict is known -> how far the verdicts can be trusted."""

from circuit_lab.verdict.calibration.catalogue import all_trials, quick_trials, wired_controls
from circuit_lab.verdict.calibration.controls import NO_CIRCUIT_KINDS, Control, Kind, Perturbation
from circuit_lab.verdict.calibration.runner import Record, Trial, read_records, run_controls
from circuit_lab.verdict.calibration.scores import (
    Confusion,
    FalseCircuits,
    Rate,
    Reliability,
    ReliabilityBin,
    Score,
)
from circuit_lab.verdict.calibration.stored_readings import ModularReadings, TwoHopReadings, readings_of
from circuit_lab.verdict.calibration.summary import (
    HALVES,
    Calibration,
    CurvePoint,
    Half,
    HalfScores,
    Invariance,
    Misjudged,
    summarise,
)
from circuit_lab.verdict.calibration.threshold_scan import ThresholdScan, scan_thresholds
from circuit_lab.verdict.settings import Settings

__all__ = [
    "HALVES",
    "NO_CIRCUIT_KINDS",
    "Calibration",
    "Confusion",
    "Control",
    "CurvePoint",
    "FalseCircuits",
    "Half",
    "HalfScores",
    "Invariance",
    "Kind",
    "Misjudged",
    "ModularReadings",
    "Perturbation",
    "Rate",
    "Record",
    "Reliability",
    "ReliabilityBin",
    "Score",
    "Settings",
    "ThresholdScan",
    "Trial",
    "TwoHopReadings",
    "all_trials",
    "quick_trials",
    "read_records",
    "readings_of",
    "run_controls",
    "scan_thresholds",
    "summarise",
    "wired_controls",
]
