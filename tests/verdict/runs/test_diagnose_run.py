"""Whole runs from their folders: a timeline is that of single diagnoses; what is kept is used only if it is right."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from small_runs import MODULAR, TWO_HOP, train_run

from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.training import checkpoint_path, load_checkpoint, reference_model, save_checkpoint
from circuit_lab.verdict import Diagnosis, Verdict, diagnose
from circuit_lab.verdict.runs import RunDiagnosis, diagnose_run
from circuit_lab.verdict.runs import diagnose as diagnose_module
from circuit_lab.verdict.runs.cache import DIAGNOSES
from circuit_lab.verdict.runs.quantities import best_site, family_of, read_points


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_run(MODULAR, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def made():
    """Diagnoses with the default settings, made once for all tests."""
    return {}


@pytest.fixture(autouse=True)
def counted(monkeypatch, made):
    """The steps that were diagnosed, not read back."""
    steps = []

    def counting(checkpoint, **settings):
        steps.append(checkpoint.step)
        state = (checkpoint.step, checkpoint.weights_hash)
        if state not in made:
            made[state] = diagnose(checkpoint)
        return made[state]

    monkeypatch.setattr(diagnose_module, "diagnose", counting)
    return steps


def kept_files(run):
    return sorted((run / DIAGNOSES).iterdir())


@pytest.mark.slow
def test_a_timeline_is_that_of_each_checkpoint_diagnosed_alone(run):
    found = diagnose_run(run, progress=False)
    assert [v.step for v in found.verdicts] == [10, 20, 30, 40]
    for verdict in found.verdicts[::3]:
        alone = diagnose(verdict.checkpoint)
        assert (verdict.verdict, verdict.confidence) == (alone.verdict, alone.confidence)
        rows = found.frame().query("step == @verdict.step").set_index("quantity")
        evidence = alone.frame().set_index(["name", "split"])
        for quantity, row in {
            "training": ("accuracy", "train"),
            "held-out": ("accuracy", "test_unmirrored"),
            "explained share": ("trig energy share", "test_unmirrored"),
            "weight norm": ("weight norm", "weights"),
        }.items():
            one = evidence.loc[[row]].iloc[0]
            assert rows.loc[quantity, "value"] == one["value"] and rows.loc[quantity, "n"] == one["n"]
            assert rows.loc[quantity, "low"] == pytest.approx(one["low"], nan_ok=True)
        norm = rows.loc["weight norm", "value"]
        assert rows.loc["remaining logit per norm", "high"] == pytest.approx(rows.loc["remaining logit", "high"] / norm)
        parts = rows.loc[["generalising logit", "remaining logit"]]
        assert rows.loc["exchange of logits", "value"] == pytest.approx(-parts["value"].diff().iloc[1])
        assert rows.loc["exchange of logits", "low"] == pytest.approx(parts["low"].iloc[0] - parts["high"].iloc[1])
    assert found.frame()["threshold"].notna().groupby(found.frame()["quantity"]).all()["held-out"]


@pytest.mark.slow
def test_a_second_call_reads_back_the_same_and_a_new_checkpoint_costs_one(run, counted):
    first = diagnose_run(run, progress=False)
    assert counted == [10, 20, 30, 40] and len(kept_files(run)) == 4
    assert diagnose_run(run, progress=False) == first and len(counted) == 4
    loaded = load_checkpoint(checkpoint_path(run, 40))
    with torch.no_grad():
        loaded.net.embed.W_E.mul_(1.1)
    save_checkpoint(checkpoint_path(run, 50), net=loaded.net, task=loaded.task, step=50, metrics={})
    grown = diagnose_run(run, progress=False)
    assert counted == [10, 20, 30, 40, 50]
    assert grown.verdicts[:4] == first.verdicts and grown.frame().query("step <= 40").equals(first.frame())
    assert diagnose_run(run, progress=False, cache=False) == grown and len(counted) == 10


def test_what_a_diagnosis_depends_on_is_in_its_key(run, counted):
    diagnose_run(run, progress=False)
    for settings in ({"seed": 1}, {"n_partners": 3}, {"max_queries_per_split": 9}):
        del counted[:]
        diagnose_run(run, progress=False, **settings)
        assert counted == [10, 20, 30, 40]
    del counted[:]
    # Another past: whether a later checkpoint has ungrokked may hang on it, an earlier one's verdict cannot.
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in metrics:
        if record["step"] == 20:
            record["accuracy/test_unmirrored"] = 1.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    diagnose_run(run, progress=False)
    assert counted == [30, 40]


def test_a_kept_diagnosis_that_is_damaged_or_foreign_is_made_again(run, counted):
    truth = diagnose_run(run, progress=False)
    files = kept_files(run)
    good = [path.read_bytes() for path in files]
    record = json.loads(good[3])
    record["diagnosis"]["verdict"] = "true_circuit"  # and its hash is no longer right
    damages = [b"", b"\xff not JSON", good[0], json.dumps(record).encode()]  # the third is another checkpoint's
    for path, damage in zip(files, damages, strict=True):
        path.write_bytes(damage)
    del counted[:]
    assert diagnose_run(run, progress=False) == truth
    assert counted == [10, 20, 30, 40] and [path.read_bytes() for path in files] == good
    for content in (b"[]", b"3", b'{"key": 1}', json.dumps(json.loads(good[0]) | {"diagnosis": {}}).encode()):
        files[0].write_bytes(content)
        assert diagnose_run(run, progress=False) == truth


def test_a_moved_run_keeps_its_diagnoses_and_names_its_new_place(run, counted, tmp_path):
    diagnose_run(run, progress=False)
    moved = run.rename(tmp_path / "elsewhere")
    found = diagnose_run(moved, progress=False)
    assert len(counted) == 4 and found.source == str(moved)
    assert found.verdicts[0].checkpoint == str(checkpoint_path(moved, 10))


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(run, counted):
    (run / DIAGNOSES).write_text("in the way")
    with pytest.warns(UserWarning, match="diagnoses cannot be kept in"):
        found = diagnose_run(run, progress=False)
    assert found == diagnose_run(run, progress=False, cache=False)


def test_its_json_reads_back(run):
    found = diagnose_run(run, progress=False)
    assert RunDiagnosis.model_validate_json(found.to_json()) == found
    table = found.verdict_frame()
    assert list(table["step"]) == [10, 20, 30, 40]
    pd.testing.assert_series_equal(
        table["held-out"], found.frame().query("quantity == 'held-out'")["value"], check_names=False, check_index=False
    )
    assert set(found.crossing_frame()["quantity"]) >= {"training", "explained share", "held-out"}
    assert "Was the circuit there before held-out accuracy rose?" in found._repr_html_()
    assert (
        found.lag(("training", "learnt"), ("training", "learnt")) is None or found.crossing("training", "learnt").step
    )
    with pytest.raises(ValueError, match="no crossing 'OOD' 'solved' in this run; there are: 'training' 'learnt'"):
        found.crossing("OOD", "solved")


def test_one_checkpoint_says_nothing_of_order(run):
    for step in (20, 30, 40):
        checkpoint_path(run, step).unlink()
    found = diagnose_run(run, progress=False)
    assert any("There is one checkpoint" in warning for warning in found.warnings) and found.lags == ()
    assert all(answer.answer == "cannot tell" for answer in found.answers)


@pytest.fixture(scope="module")
def circuit(small_task):
    net = fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    return diagnose((net, small_task)).model_copy(update={"step": 7})


def test_the_quantities_of_a_two_hop_diagnosis(circuit):
    diagnosis = circuit
    points = {p.quantity: p for p in read_points(diagnosis, family_of(diagnosis))}
    assert list(points) == [
        "training",
        "mediation, training",
        "ID",
        "hop 1, ID",
        "hop 2, ID",
        "mediation, ID",
        "hop 1, OOD",
        "hop 2, OOD",
        "mediation, OOD",
        "OOD",
        "weight norm",
    ]
    norm = points.pop("weight norm")
    assert norm.value == pytest.approx(diagnosis.number("weight norm", "weights").value) and norm.low is None
    assert all(p.value == 1.0 and p.step == 7 for p in points.values())
    assert best_site(diagnosis) in diagnosis.sites
    queries = diagnosis.measurements.queries["test_ood"]
    tested = queries[queries["outcome"] != "untestable"]
    assert points["mediation, OOD"].n == len(tested) and points["OOD"].n == len(queries) == 154
    floor = next(q for q in family_of(diagnosis).quantities if q.name == "OOD").levels[-1]
    assert (floor.threshold, floor.ceiling) == (pytest.approx(0.0519, abs=1e-3), 0.5)
    read_back = Diagnosis.model_validate_json(diagnosis.to_json())
    assert read_points(read_back, family_of(read_back)) == [*points.values(), norm]
    assert read_back.measurements is None and read_back.to_json() == diagnosis.to_json()


def test_mediation_counts_all_testable_queries_not_only_right_ones(circuit):
    shares = {"circuit": 0.25, "shortcut": 0.25, "no_circuit": 0.3, "untestable": 0.2}
    every = dict.fromkeys(circuit.outcomes[0].shares, 0.0) | shares
    changed = tuple(replace(s, n=100, shares=every) if s.split == "test_ood" else s for s in circuit.outcomes)
    diagnosis = circuit.model_copy(update={"outcomes": changed})
    point = {p.quantity: p for p in read_points(diagnosis, family_of(diagnosis))}["mediation, OOD"]
    assert (point.value, point.n) == (25 / 80, 80)


@pytest.mark.slow
def test_a_run_that_ungrokks_is_called_so_in_a_stream_at_most_twice_the_cost(tmp_path, monkeypatch):
    from circuit_lab.verdict.modular import diagnose as modular

    memoriser, grokked = reference_model("modular-memorising"), reference_model("modular-grokked")
    run, states = tmp_path / "run", [(memoriser, 0.0), (grokked, 1.0), *[(memoriser, 0.0)] * 4]
    records = []
    for step, (state, accuracy) in enumerate(states, start=1):
        save_checkpoint(checkpoint_path(run, step), net=state.net, task=state.task, step=step, metrics={})
        records.append(json.dumps({"step": step, "accuracy/test_unmirrored": accuracy}))
    (run / "metrics.jsonl").write_text("\n".join(records) + "\n")
    measured, measure = [], modular._measure
    monkeypatch.setattr(modular, "_measure", lambda *a: measured.append(1) or measure(*a))
    found = diagnose_run(run, progress=False)
    assert [v.verdict for v in found.verdicts] == [Verdict.MEMORISING, Verdict.TRUE_CIRCUIT, *[Verdict.UNGROKKED] * 4]
    assert len(measured) <= 2 * len(states)
    (alarm,) = [alarm for alarm in found.alarms if alarm.kind == "ungrokked"]
    assert (alarm.step, alarm.recovered_by) == (3, None)
    assert diagnose_run(run, progress=False) == found and len(measured) <= 2 * len(states)


@pytest.mark.slow
def test_an_untrained_two_hop_run(tmp_path):
    found = diagnose_run(train_run(TWO_HOP, tmp_path / "run"), progress=False)
    assert [v.verdict for v in found.verdicts] == [Verdict.UNTRAINED] * 2
    assert found.circuit_came_first.answer == "cannot tell" and found.phases.memorisation is None
