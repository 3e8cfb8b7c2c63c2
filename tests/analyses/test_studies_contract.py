"""Every study of the repository is complete, its results are stored, and the page of results says what they say."""

import importlib.util
from pathlib import Path

import pytest

from circuit_lab.studies import find_study, judge, read_results, reproduce, study_names
from circuit_lab.studies.judgement import read_expected
from circuit_lab.studies.results import COLUMNS

ROOT = Path(__file__).parents[2]
ANALYSES = ROOT / "analyses"
STUDIES = study_names()
STORED = [name for name in STUDIES if (ANALYSES / name / "small").is_dir()]


def results_page() -> str:
    spec = importlib.util.spec_from_file_location("docs_results", ROOT / "docs" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_every_folder_with_a_study_is_found():
    assert STUDIES == (
        "ablations", "augmentation_regimes", "critical_dataset_size", "efficiency", "fake_grokking", "identical_paths",
        "natural_language", "no_sharing", "one_run", "phase_diagram", "second_hop", "semi_grokking",
        "speed_of_learning", "toy_model", "transfer", "ungrokking",
    )  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_it_asks_and_why_its_limits(name):
    study = find_study(name)
    names = [claim.name for claim in study.claims]
    assert names and len(set(names)) == len(names)
    readme = (ANALYSES / name / "README.md").read_text()
    assert f"circuit-lab reproduce {name} --scale small" in readme
    assert all(claim.published and claim.quantity for claim in study.claims)


@pytest.mark.parametrize("name", STORED)
def test_stored_results_lie_in_their_bands(name):
    study, folder = find_study(name), ANALYSES / name / "small"
    results = read_results(folder)
    assert len(results.provenance.seeds) >= 3 and results.provenance.study == name
    assert results.provenance.commit not in ("", "unknown")
    assert sorted(results.measurements["seed"].unique()) == results.provenance.seeds
    expected = read_expected(ANALYSES / name / "expected.json", study)
    assert all(band.low <= band.high and band.reason for band in expected.values())
    for judgement in judge(study, results.measurements, expected):
        assert not judgement.unexpected, judgement.claim.name
    assert {path.stem for path in folder.glob("*.svg")} == set(study.figures)


def test_the_page_of_results_is_what_the_tables_say():
    assert (ROOT / "docs" / "results.md").read_text() == results_page(), "make results"


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_from_end_to_end(name, tmp_path):
    found = reproduce(name, scale="smoke", seeds=(0,), runs=tmp_path, device="cpu", progress=False)
    assert len(found.results.measurements) > 0
    assert set(COLUMNS) < set(found.results.measurements.columns)
    for draw in found.study.figures.values():
        assert len(draw(found.results.measurements).to_json()) > 100
