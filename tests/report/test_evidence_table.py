"""Every number of a diagnosis can be had again: the line of Python beside it gives the very same row."""

import pytest

import circuit_lab
from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.report.evidence_table import evidence_rows, recomputing_line, sentences
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.verdict import Evidence, Share, diagnose


@pytest.fixture(scope="module")
def subject():
    return cosine_network(23, frequencies=[1, 4, 9]), build_task(ModularConfig(p=23, train_share=0.4))


@pytest.fixture(scope="module")
def diagnosis(subject):
    return diagnose(subject, seed=5, max_queries_per_split=150)


def recomputed(line, subject=None):
    net, task = subject or (None, None)
    return eval(line, {"circuit_lab": circuit_lab, "net": net, "task": task})


def test_a_line_gives_its_row_with_the_settings_of_the_diagnosis(diagnosis, subject):
    sampled = next(row for row in diagnosis.evidence if row.name == "right without key frequencies")
    line = recomputing_line(diagnosis, sampled)
    start = "circuit_lab.diagnose((net, task), seed=5, max_queries_per_split=150).number("
    assert line == f'{start}"right without key frequencies", "{sampled.split}", "{sampled.site}")'
    assert recomputed(line, subject) == sampled
    assert recomputed(line.replace("=150", "=100"), subject) != sampled, "the setting matters"


def test_each_line_names_its_row_and_no_other(diagnosis):
    """All lines differ, and what follows `diagnose(...)` gives the row of the diagnosis at hand."""
    rows = evidence_rows(diagnosis, "c2")
    lines = [recomputing_line(diagnosis, row.evidence) for row in rows]
    assert len(set(lines)) == len(rows) == len(diagnosis.evidence)
    for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
        call = line.replace("circuit_lab.diagnose((net, task), seed=5, max_queries_per_split=150)", "diagnosis")
        assert eval(call, {"diagnosis": diagnosis}) == diagnosis.evidence[i]
        assert row.id == f"c2-e{i}"


def test_a_checkpoint_is_named_by_its_source_and_default_settings_are_left_out(diagnosis):
    told = diagnosis.model_copy(
        update={"source": 'odd "name"\\é', "step": 3, "seed": 0, "max_queries_per_split": 10_000}
    )
    row = Evidence.of("accuracy", "test", Share(1, 2))
    line = recomputing_line(told, row)
    assert line == 'circuit_lab.diagnose("odd \\"name\\"\\\\é").number("accuracy", "test")'
    seen = {}
    eval(line, {"circuit_lab": type("Lab", (), {"diagnose": lambda source: seen.update(source=source) or diagnosis})})
    assert seen == {"source": told.source}


def test_sentences_carry_their_rows(diagnosis):
    found = sentences(diagnosis)
    assert [one.words for one in found] == list(diagnosis.reasons)
    assert all(one.rows == rows for one, rows in zip(found, diagnosis.rests_on, strict=True))
    held_out = next(one for one in found if one.words.startswith("held-out accuracy"))
    stated = [(diagnosis.evidence[i].name, diagnosis.evidence[i].split) for i in held_out.rows]
    assert stated == [("accuracy", "test_unmirrored")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modular-memorising", "two-hop-true-circuit"])
def test_every_line_of_a_reference_model_gives_its_number(name, monkeypatch):
    diagnosis = circuit_lab.diagnose(name)
    made = {}

    def diagnose_once(*arguments, **settings):
        """The same call is made once: the lines of one diagnosis differ in what they read of it."""
        key = (arguments, tuple(settings.items()))
        if key not in made:
            made[key] = diagnose(*arguments, **settings)
        return made[key]

    monkeypatch.setattr(circuit_lab, "diagnose", diagnose_once)
    rows = evidence_rows(diagnosis, "c1")
    assert [recomputed(recomputing_line(diagnosis, row.evidence)) for row in rows] == list(diagnosis.evidence)
    assert len(made) == 1 and made.popitem()[1] is not diagnosis
