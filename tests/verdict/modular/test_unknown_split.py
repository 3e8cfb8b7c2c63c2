"""Where nobody knows which pairs were trained on: no impostor is called a circuit, and what cannot be told is said."""

import json
import math
from dataclasses import replace

import jsonschema
import pytest
import torch

from circuit_lab import reference_model
from circuit_lab.cli.tables import print_tables
from circuit_lab.measures import Interval, predicted_answers
from circuit_lab.nets.controls.modular import cosine_network, lookup_table, mixture
from circuit_lab.report import query_explorer, write_report
from circuit_lab.report.panels.modular import modular_panels
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.training import parse_recipe, save_checkpoint
from circuit_lab.training.evaluation import split_scores
from circuit_lab.verdict import Diagnosis, Estimate, Share, Verdict, compare, diagnose
from circuit_lab.verdict.diagnosis import SCHEMA_PATH
from circuit_lab.verdict.exhibits import gather_exhibits
from circuit_lab.verdict.modular import diagnose as modular
from circuit_lab.verdict.modular.rules import Readings
from circuit_lab.verdict.modular.unknown_split import decide_without_split, verdict_in_words

P = 19
FREQUENCIES = [1, 4, 6]


def unknown(**settings):
    return build_task(ModularConfig(split="unknown", **({"p": P} | settings)))


TASK = unknown()


def table(rows=slice(None), task=TASK, **options):
    return lookup_table(P, task.pairs.tokens[rows, :2], task.pairs.answer[rows], **options)


def rows_of_share(share, seed=0):
    """What a code that splits by torch.randperm trains on; seed 0 is also the diagnosis's own."""
    return torch.randperm(P * P, generator=torch.Generator().manual_seed(seed))[: int(share * P * P)]


def random_net():
    net = table()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return net


def table_of_narrow_answers(task=TASK):
    """A table that writes its answers in two frequencies: only the inputs give it away."""
    net = table(task=task)
    element = torch.arange(P)
    angle = 2 * math.pi / P * (element[:, None] - element[None])
    with torch.no_grad():
        net.unembed.W_U.copy_(net.unembed.W_U @ (torch.cos(3 * angle) + torch.cos(8 * angle)))
    return net


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """A thousand take seconds with shapes checked."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(modular, "N_RESAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def circuit():
    return diagnose((cosine_network(P, frequencies=FREQUENCIES), TASK))


@pytest.fixture(scope="module")
def rote():
    return diagnose((table(), TASK))


def numbers(diagnosis):
    return {row.name: row.value for row in diagnosis.evidence if row.decides}


def test_a_wired_circuit_is_one_with_a_warning_first(circuit):
    assert circuit.verdict == Verdict.TRUE_CIRCUIT and circuit.confidence > 0.99
    assert circuit.reasons[0].endswith("whether any pair was held out is not known.")
    assert circuit.warnings[0].startswith("Which of the 361 pairs were trained on is not known")
    for untold in ("held out", "by heart", "memorises", "has ungrokked", "semi-grokked", "untrained", "give the split"):
        assert untold in circuit.warnings[0]


def test_a_table_of_all_pairs_is_told_by_its_concentration(rote):
    """Trap 1: it is right on everything, and the generalising part explains all of its logits."""
    assert rote.verdict == Verdict.INCONCLUSIVE and rote.candidates == {"inconclusive": 1.0}
    found = numbers(rote)
    assert found["accuracy"] == 1 and found["trig energy share"] == pytest.approx(1)
    assert found["frequency concentration"] == pytest.approx(0, abs=1e-4)  # in float32
    assert "learnt all pairs by heart" in rote.reasons[0] and "give the split" in rote.reasons[0]
    assert "trained on is not known" in rote.warnings[0]
    assert not any("point values" in reason or "Straddles" in reason for reason in rote.reasons)


@pytest.mark.parametrize("share", [0.4, 0.97])
def test_a_table_of_a_share_of_the_pairs_explains_that_share(share):
    """With the diagnosis's own seed: its naming pairs must not be the table's pairs."""
    diagnosis = diagnose((table(rows_of_share(share)), TASK))
    assert diagnosis.verdict == Verdict.INCONCLUSIVE
    row = diagnosis.number("accuracy", "all")
    right_by_accident = (1 - share) / P
    assert row.low - 0.01 < share + right_by_accident < row.high + 0.01
    assert numbers(diagnosis)["trig energy share"] == pytest.approx(share, abs=0.05)
    assert ("learnt just these by heart" in diagnosis.reasons[0]) is (share < 0.9)


@pytest.mark.parametrize("make", [random_net, table_of_narrow_answers], ids=["random", "narrow table"])
def test_other_impostors_are_inconclusive(make):
    diagnosis = diagnose((make(), TASK))
    assert diagnosis.verdict == Verdict.INCONCLUSIVE, diagnosis.reasons


def test_where_the_inputs_cannot_be_tested_nothing_is_a_circuit():
    """This table passes every number, for the frequencies of the inputs are not defined for its operation."""
    task = unknown(operation="a^2+ab+b^2")
    diagnosis = diagnose((table_of_narrow_answers(task), task))
    found = numbers(diagnosis)
    assert found["right answers through the key frequencies"] > 0.9
    assert found["right with nothing but the key frequencies"] == 1
    assert diagnosis.verdict == Verdict.INCONCLUSIVE
    assert "no frequencies of the inputs to remove" in diagnosis.reasons[0]


def test_a_circuit_that_only_half_the_pairs_need_is_no_circuit():
    """A table decides half the pairs: most answers are right either way, but not through the frequencies."""
    rows = rows_of_share(0.5)
    net = mixture(
        P,
        frequencies=FREQUENCIES,
        pairs=TASK.pairs.tokens[rows, :2],
        answers=TASK.pairs.answer[rows],
        table_height=200.0,
    )
    assert bool((predicted_answers(net, TASK.pairs) == TASK.pairs.answer).all())
    assert diagnose((net, TASK)).verdict == Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("name", "labels", "verdict"),
    [
        ("modular-grokked", "true", Verdict.TRUE_CIRCUIT),
        ("modular-memorising", "true", Verdict.INCONCLUSIVE),
        pytest.param("modular-random-labels", "random", Verdict.INCONCLUSIVE, marks=pytest.mark.slow),
        pytest.param("modular-random-labels", "true", Verdict.INCONCLUSIVE, marks=pytest.mark.slow),
        pytest.param("modular-semi-grokked", "true", Verdict.INCONCLUSIVE, marks=pytest.mark.slow),
        pytest.param("modular-ungrokked", "true", Verdict.INCONCLUSIVE, marks=pytest.mark.slow),
    ],
)
def test_trained_nets_without_their_split(name, labels, verdict):
    net = reference_model(name).net
    assert diagnose((net, unknown(p=59, labels=labels))).verdict == verdict


def readings(**changes):
    numbers = {"accuracy": 1.0, "explained": 0.9, "concentration": 0.9, "circuit": 0.95, "alone": 1.0} | changes

    def point(value):
        return Estimate(value, Interval(value - 0.01, value + 0.01), 1000)

    def share(value):
        return Share(round(1000 * value), 1000)

    return Readings(
        training=None,
        held_out=share(numbers["accuracy"]),
        explained=point(numbers["explained"]),
        concentration=point(numbers["concentration"]),
        circuit=share(numbers["circuit"]),
        alone=share(numbers["alone"]),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accuracy": 0.8}, "80% of all pairs are answered right, and a net that has learnt just these by heart"),
        ({"explained": 0.4}, "do not go mostly through a few frequencies"),
        ({"concentration": 0.1}, "do not go mostly through a few frequencies"),
        ({"circuit": 0.5}, "do not go mostly through a few frequencies"),
        ({"alone": 0.7}, "a few frequencies alone do not answer nearly all pairs"),
    ],
)
def test_every_number_must_speak_for_a_circuit(changes, words):
    assert decide_without_split(readings(), tested_at_inputs=True).certain_verdict == Verdict.TRUE_CIRCUIT
    decision = decide_without_split(readings(**changes), tested_at_inputs=True)
    assert decision.certain_verdict == decision.verdict == Verdict.INCONCLUSIVE
    assert words in verdict_in_words(decision, tested_at_inputs=True)


def test_a_number_across_its_threshold_is_inconclusive_and_named():
    across = replace(readings(), explained=Estimate(0.52, Interval(0.45, 0.6), 1000))
    decision = decide_without_split(across, tested_at_inputs=True)
    assert (decision.verdict, decision.certain_verdict) == (Verdict.TRUE_CIRCUIT, Verdict.INCONCLUSIVE)
    sentence = verdict_in_words(decision, tested_at_inputs=True)
    assert "straddles its threshold; give the split" in sentence
    reasons = [reason.words for reason in decision.reasons(sentence)]
    assert reasons[1] == "By point values alone it would be true_circuit." and "Straddles" in reasons[2]
    assert decide_without_split(readings(), tested_at_inputs=False).certain_verdict == Verdict.INCONCLUSIVE


def test_nothing_is_said_of_training_or_held_out_pairs(circuit):
    assert {row.split for row in circuit.evidence} == {"all", "all pairs", "weights"}
    assert not any("training" in row.compared_with for row in circuit.evidence)
    assert [(s.split, s.n_in_training) for s in circuit.outcomes] == [("all", None)]
    certificate = circuit.certificate
    assert (certificate.known, certificate.clean, certificate.in_a_word) == (False, False, "unknown")
    assert certificate.n_in_training == {} == certificate.n_mirrored and certificate.n_queries == {"all": 361}
    assert circuit.number("trig energy share", "all").control == 1.0  # what a table of all pairs reaches
    decided = [row for row in circuit.evidence if row.decides]
    assert {number for rows in circuit.rests_on for number in rows} >= {circuit.evidence.index(row) for row in decided}


def test_the_json_satisfies_its_schema_and_reads_back(circuit):
    text = circuit.to_json()
    jsonschema.validate(json.loads(text), json.loads(SCHEMA_PATH.read_text()))
    again = Diagnosis.model_validate_json(text)
    assert again.certificate == circuit.certificate and again.schema_version == 5


@pytest.mark.slow
def test_pages_and_comparisons_of_an_unknown_split(circuit, rote, tmp_path):
    page = write_report([circuit, rote], tmp_path / "page.html", link_scripts=True).read_text()
    assert page.count("Split certificate: unknown") == 2 and "Split certificate: leaked" not in page
    net, known = cosine_network(P, frequencies=FREQUENCIES), build_task(ModularConfig(p=P, train_share=0.4))
    comparison = compare((net, TASK), (table(), known))
    assert comparison.a.verdict == Verdict.TRUE_CIRCUIT and comparison.b.verdict == Verdict.FAKE_GROKKING
    comparison.report(tmp_path / "both.html", link_scripts=True)


def test_figures_say_nothing_of_training_pairs(circuit):
    exhibits = gather_exhibits(circuit)
    assert exhibits.in_training is None and exhibits.efficiency.n == 361
    figures = {name: f for group in modular_panels(circuit, exhibits).values() for name, f in group.items()}
    maps = [a.text for a in figures["logit_maps"].layout.annotations]
    assert maps == ["whole<br>(n = 361)", "generalising part", "remaining part"]
    assert "What the weights buy on all pairs (n = 361)" in figures["efficiency"].layout.title.text.replace("<br>", " ")
    assert [list(figures[name].data[0][axis]) for name, axis in (("trig_share", "y"), ("logit_parts", "x"))] == [
        ["all<br>n = 271"]
    ] * 2
    assert query_explorer._modular_content(exhibits)["in_training"] is None


def test_cells_and_tables_say_that_the_split_is_unknown(circuit, rote, capsys):
    assert "certificate unknown" in circuit._repr_html_() and "<td>not known</td>" in circuit._repr_html_()
    print_tables([circuit, rote])
    printed = capsys.readouterr().out
    assert "not known what was trained on" in printed and "queries that are training items: not known" in printed
    assert " ! " not in printed.split("conf.:")[0]  # no mark of a leak


def test_every_pair_is_scored_and_no_training_pair():
    net = cosine_network(P, frequencies=FREQUENCIES)
    scores = split_scores(net, TASK)
    assert list(scores) == ["all"] and scores["all"].n == 361 and scores["all"].accuracy == 1


@pytest.mark.slow
def test_a_parent_of_an_unknown_split_is_diagnosed_without_one(tmp_path):
    """A net trained on from a foreign one: the past of its weights has no held-out pairs, and is read on all."""
    p, known = 59, reference_model("modular-memorising")
    grokked = reference_model("modular-grokked")
    parent = save_checkpoint(
        tmp_path / "parent.safetensors", net=grokked.net, task=unknown(p=p), step=1, metrics={"all": 1.0}
    )
    recipe = {"parent": {"checkpoint": str(parent), "weights_hash": grokked.weights_hash, "step": 1, "accuracy": {}}}
    child = save_checkpoint(
        tmp_path / "child.safetensors", net=known.net, task=known.task, step=2, metrics={}, recipe=recipe
    )
    diagnosis = diagnose(child)
    assert diagnosis.verdict == Verdict.UNGROKKED
    assert any("(true_circuit, accuracy on all pairs 1.00)" in reason for reason in diagnosis.reasons)


def test_a_recipe_of_an_unknown_split_is_refused():
    tables = {
        "task": {"kind": "modular", "p": 7, "split": "unknown"},
        "net": {"layer_map": [0], "d_model": 8, "n_heads": 2, "d_mlp": 8},
        "training": {"n_steps": 1},
    }
    with pytest.raises(ValueError, match='task.split = "unknown" leaves nothing to train on; give train_share or n_tr'):
        parse_recipe(tables, source="it")
    parse_recipe(tables | {"task": {"kind": "modular", "p": 7, "train_pairs": [3, 40]}}, source="it")


@pytest.mark.slow
def test_a_net_that_learnt_nearly_all_pairs_partly_by_heart_is_no_circuit():
    """Right on .98 of all pairs and explained by few frequencies, yet these alone do not answer them."""
    from circuit_lab.nets import SharedTransformerConfig, build_net

    p = 31
    known = build_task(ModularConfig(p=p, train_share=0.9))
    net = build_net(
        SharedTransformerConfig(
            layer_map=(0,),
            d_model=64,
            n_heads=4,
            d_mlp=512,
            act_fn="relu",
            normalization_type="none",
            attention_dir="causal",
            attn_bias=False,
            mlp_bias=True,
            unembed_bias=False,
            d_vocab=p + 1,
            d_vocab_out=p,
            n_ctx=3,
            init_seed=0,
        )
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98))
    for _ in range(300):
        logits = net(known.training.tokens)[:, -1].double()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, known.training.answer).backward()
        optimizer.step()
    diagnosis = diagnose((net, unknown(p=p)))
    found = numbers(diagnosis)
    assert found["accuracy"] > 0.95 and found["right answers through the key frequencies"] > 0.6
    assert found["right with nothing but the key frequencies"] < 0.8
    assert diagnosis.verdict == Verdict.INCONCLUSIVE
    assert diagnose((net, known)).verdict != Verdict.TRUE_CIRCUIT
