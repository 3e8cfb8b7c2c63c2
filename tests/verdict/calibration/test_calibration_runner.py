"""Running controls: what is written, what is not run again, and readings that carry the verdict."""

import json
from dataclasses import replace

import pytest
import torch

from circuit_lab.nets.controls.modular import cosine_network, lookup_table
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table, triple_table_over_circuit
from circuit_lab.tasks import ModularConfig, TwoHopConfig, build_task
from circuit_lab.verdict import Verdict, diagnose
from circuit_lab.verdict.calibration import (
    Control,
    Settings,
    Trial,
    read_records,
    readings_of,
    run_controls,
    runner,
    summarise,
)
from circuit_lab.verdict.calibration.catalogue import wired_controls
from circuit_lab.verdict.calibration.perturbed_controls import noisy_controls, rotated_controls
from circuit_lab.verdict.calibration.two_hop_families import EVERY, triples_of

CHEAP = Settings(n_partners=4, max_queries_per_split=60)


@pytest.fixture(scope="module")
def tiny_task():
    """64 `test_ood` queries, diagnosed in a tenth of a second."""
    return build_task(
        TwoHopConfig(n_entities=12, n_relations=6, out_degree=6, ood_share=0.4, test_id_share=0.25, seed=3)
    )


@pytest.fixture(scope="module")
def modular_task():
    return build_task(ModularConfig(p=23, train_share=0.5))


def control(name, build, *, truth=Verdict.TRUE_CIRCUIT, **fields):
    defaults = {"family": "two_hop/shared_table", "mechanism": "", "kind": "known_answer", "held_out": False}
    return Control(name=name, truth=truth, build=build, **defaults | fields)


@pytest.fixture
def trials(tiny_task):
    def circuit():
        return fact_table_read_twice(tiny_task.facts, d_vocab=tiny_task.d_vocab), tiny_task

    def table():
        return triple_table(tiny_task.facts, triples_of(tiny_task, EVERY), d_vocab=tiny_task.d_vocab), tiny_task

    controls = [control("circuit", circuit), control("table", table, truth=Verdict.FAKE_GROKKING)]
    return [Trial(c, CHEAP) for c in controls]


@pytest.fixture(scope="module")
def diagnosis(tiny_task):
    net = fact_table_read_twice(tiny_task.facts, d_vocab=tiny_task.d_vocab)
    return diagnose((net, tiny_task), n_partners=4, max_queries_per_split=60)


@pytest.fixture
def counted(monkeypatch, diagnosis):
    """The options of each diagnosis made; all get the same result."""
    calls = []

    def counting(subject, **options):
        calls.append(options)
        return diagnosis

    monkeypatch.setattr(runner, "diagnose", counting)
    return calls


def test_a_stopped_run_goes_on_where_it_was(trials, counted, tmp_path):
    out = tmp_path / "deep" / "results.jsonl"
    first = run_controls(trials[:1], out, progress=False)
    with out.open("a") as lines:
        lines.write(first[0].model_dump_json()[:50])  # a line cut short by the stop
    both = run_controls(trials, out, progress=False)
    assert len(counted) == 2 and both[0] == first[0]
    assert read_records(out) == both
    assert [(r.name, r.truth, r.verdict) for r in both] == [
        ("circuit", "true_circuit", "true_circuit"),
        ("table", "fake_grokking", "true_circuit"),
    ]
    assert run_controls(trials, out, progress=False) == both and len(counted) == 2


def test_other_settings_weights_or_thresholds_are_run_again(trials, counted, tmp_path, monkeypatch, tiny_task):
    out = tmp_path / "results.jsonl"
    run_controls(trials[:1], out, progress=False)
    other_seed = [Trial(trials[0].control, replace(CHEAP, seed=1))]
    run_controls([*trials[:1], *other_seed], out, progress=False)
    assert [options["seed"] for options in counted] == [0, 1]

    def other_net():
        return triple_table_over_circuit(
            tiny_task.facts, triples_of(tiny_task, ["test_ood"]), d_vocab=tiny_task.d_vocab
        ), tiny_task

    run_controls([Trial(replace(trials[0].control, build=other_net), CHEAP)], out, progress=False)
    assert len(counted) == 3 and len(read_records(out)) == 1
    monkeypatch.setattr(runner, "THRESHOLDS", replace(runner.THRESHOLDS, solved=0.7))
    run_controls([Trial(replace(trials[0].control, build=other_net), CHEAP)], out, progress=False)
    assert len(counted) == 4


def test_bad_files_and_repeated_names_are_refused(trials, tmp_path):
    out = tmp_path / "results.jsonl"
    out.write_text('{"name": "half a record"}\n')
    with pytest.raises(
        ValueError, match="line 1 is no result of a control: Field required .at family.; delete the file"
    ):
        run_controls(trials, out, progress=False)
    with pytest.raises(ValueError, match="control 'circuit' is listed twice"):
        run_controls([trials[0], trials[0]], tmp_path / "new.jsonl", progress=False)


def test_a_record_is_plain_json(trials, counted, tmp_path):
    run_controls(trials[:1], tmp_path / "r.jsonl", progress=False)
    line = json.loads((tmp_path / "r.jsonl").read_text())
    assert line["settings"] == {"seed": 0, "n_partners": 4, "max_queries_per_split": 60}
    assert line["readings"]["test_ood"]["counts"]["circuit"] > 0 and line["readings"]["training"]["n"] == 198


def assert_same_decision(decision, diagnosis):
    """The same verdict for the same reasons: every number, interval and threshold."""
    assert decision.certain_verdict == diagnosis.verdict
    said = tuple(reason.words for reason in decision.reasons(diagnosis.reasons[0]))
    assert said[1:] and diagnosis.reasons[: len(said)] == said


@pytest.mark.parametrize("share", [0.5])
def test_stored_two_hop_readings_carry_the_verdict(tiny_task, share):
    triples = triples_of(tiny_task, EVERY)
    listed = triples[torch.rand(len(triples), generator=torch.Generator().manual_seed(0)) < share]
    net = triple_table_over_circuit(tiny_task.facts, listed, d_vocab=tiny_task.d_vocab)
    diagnosis = diagnose((net, tiny_task), n_partners=4)
    assert_same_decision(readings_of(diagnosis).decide(), diagnosis)


@pytest.mark.slow
def test_stored_modular_readings_carry_the_verdict(modular_task):
    training = modular_task.training
    circuit = cosine_network(23, frequencies=[1, 4, 6, 9])
    for net in (circuit, lookup_table(23, training.tokens[:, :2], training.answer)):
        diagnosis = diagnose((net, modular_task))
        assert_same_decision(readings_of(diagnosis).decide(), diagnosis)


@pytest.mark.slow
def test_a_few_controls_from_net_to_scores(tmp_path):
    names = ["two_hop/shared_table/task=0", "two_hop/full_table/task=0", "two_hop/training_table/task=0"]
    wired = {c.name: c for c in wired_controls()}
    chosen = [wired[name] for name in names]
    controls = [*chosen, *rotated_controls(chosen[:1]), *noisy_controls(chosen[:1], levels=(0.01,))]
    limited = [Trial(chosen[0], replace(CHEAP, max_queries_per_split=20))]
    records = run_controls([*(Trial(c, CHEAP) for c in controls), *limited], tmp_path / "r.jsonl", progress=False)
    result = summarise(records)
    development, held_out = result.known_answer
    assert (development.macro_f1.value, held_out.macro_f1.value) == (1, 1)
    assert (development.right.n, held_out.right.n) == (2, 1)
    assert result.false_circuits["development"].n == 1 and not result.false_circuits["development"].names
    assert result.rotation[0].same.n_true == result.rotation[0].same.n == 1
    assert [(p.level, p.right.n_true) for p in result.noise] == [(0.0, 1), (0.01, 1)]
    assert [p.level for p in result.queries] == [20.0, None]
    assert json.loads(result.to_json())["n_controls"] == 6


@pytest.mark.slow
def test_several_processes_find_the_same(trials, tmp_path):
    alone = run_controls(trials, tmp_path / "one.jsonl", progress=False)
    together = run_controls(trials, tmp_path / "two.jsonl", n_jobs=2, progress=False)
    untimed = [[r.model_copy(update={"seconds": 0.0}) for r in records] for records in (alone, together)]
    assert untimed[0] == untimed[1]


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="at least one diagnosed control, got none"):
        summarise([])
