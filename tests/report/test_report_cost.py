"""What a report costs, after the diagnosis: seconds for a small checkpoint, and bytes for all reference models."""

import pytest
from own_process import run_alone

_REPORT = """
import sys, time
import circuit_lab
diagnosis = circuit_lab.diagnose(sys.argv[1])
start = time.perf_counter()
path = diagnosis.report(sys.argv[2])
result = {"seconds": time.perf_counter() - start, "bytes": path.stat().st_size}
"""
MAX_SECONDS, MAX_BYTES, MAX_BYTES_LINKED = 3, 7e6, 1e6


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["two-hop-true-circuit", "modular-grokked-p113"])
def test_a_first_report_takes_seconds_imports_included(name, tmp_path):
    _, measured = run_alone(_REPORT, name, str(tmp_path / "report.html"))
    assert measured["seconds"] < MAX_SECONDS
    assert measured["bytes"] < MAX_BYTES


@pytest.mark.slow
def test_a_page_over_all_reference_models_is_small(tmp_path):
    from circuit_lab import diagnose
    from circuit_lab.report import write_report
    from circuit_lab.training import reference_models

    diagnoses = [diagnose(name) for name in reference_models()]
    assert write_report(diagnoses, tmp_path / "whole.html").stat().st_size < MAX_BYTES
    assert write_report(diagnoses, tmp_path / "page.html", link_scripts=True).stat().st_size < MAX_BYTES_LINKED
