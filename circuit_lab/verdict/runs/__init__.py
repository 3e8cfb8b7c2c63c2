"""A whole run -> `RunDiagnosis`: when each quantity crossed its threshold, in which order, phases and alarms."""

from circuit_lab.verdict.runs.alarms import Alarm
from circuit_lab.verdict.runs.answers import Answer
from circuit_lab.verdict.runs.crossings import Change, Crossing, Lag, Level, TimelinePoint
from circuit_lab.verdict.runs.diagnose import diagnose_run
from circuit_lab.verdict.runs.phases import Phase, Phases
from circuit_lab.verdict.runs.run_diagnosis import RunDiagnosis, StepVerdict

__all__ = [
    "Alarm",
    "Answer",
    "Change",
    "Crossing",
    "Lag",
    "Level",
    "Phase",
    "Phases",
    "RunDiagnosis",
    "StepVerdict",
    "TimelinePoint",
    "diagnose_run",
]
