"""Studies: a published claim as training runs, measurements, and a judgement whether it held.

A study lies in `analyses/<name>/study.py`; here is what it is made of, and what runs it.
"""

from circuit_lab.studies.catalogue import find_study, study_names
from circuit_lab.studies.judgement import Holding, Judgement, judge
from circuit_lab.studies.lab import Lab
from circuit_lab.studies.recipes import SCALES, recipe_of
from circuit_lab.studies.reproduce import Reproduction, reproduce
from circuit_lab.studies.results import Provenance, StudyResults, read_results
from circuit_lab.studies.study import Bound, Claim, Study, StudyRun

__all__ = [
    "SCALES",
    "Bound",
    "Claim",
    "Holding",
    "Judgement",
    "Lab",
    "Provenance",
    "Reproduction",
    "Study",
    "StudyResults",
    "StudyRun",
    "find_study",
    "judge",
    "read_results",
    "recipe_of",
    "reproduce",
    "study_names",
]
