"""Known-answer controls: each hand-wired or degenerate net must get its own verdict, and no other."""

import pytest
import torch

from circuit_lab.measures import predicted_answers
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table
from circuit_lab.training import parse_recipe, train
from circuit_lab.verdict import Verdict, diagnose

TRAINED, HELD_OUT = ("train_inferred",), ("train_inferred", "test_id", "test_ood")


def triples(task, splits):
    """Rows (h, r1, r2, answer) of the named splits."""
    chosen = [task.splits[name] for name in splits]
    return torch.cat([torch.cat([q.tokens, q.answer[:, None]], dim=1) for q in chosen])


def wired(task, mechanism):
    id_facts = task.facts[~task.is_ood]
    nets = {
        "true circuit": lambda: fact_table_read_twice(task.facts, d_vocab=task.d_vocab),
        "second read lacks the OOD facts": lambda: fact_table_read_twice(
            task.facts, second_read=id_facts, d_vocab=task.d_vocab
        ),
        "one neuron per triple": lambda: triple_table(task.facts, triples(task, HELD_OUT), d_vocab=task.d_vocab),
        "one neuron per triple of every split": lambda: triple_table(
            task.facts, triples(task, (*HELD_OUT, "hop1_ood", "hop2_ood")), d_vocab=task.d_vocab
        ),
        "table beside an unused bridge": lambda: triple_table(
            task.facts, triples(task, HELD_OUT), d_vocab=task.d_vocab, unused_bridge=True
        ),
        "one neuron per training triple": lambda: triple_table(
            task.facts, triples(task, TRAINED), d_vocab=task.d_vocab
        ),
    }
    return nets[mechanism]()


EXPECTED = {
    "true circuit": Verdict.TRUE_CIRCUIT,
    "second read lacks the OOD facts": Verdict.SECOND_HOP_FAILURE,
    "one neuron per triple": Verdict.FAKE_GROKKING,
    "one neuron per triple of every split": Verdict.FAKE_GROKKING,
    "table beside an unused bridge": Verdict.FAKE_GROKKING,
    "one neuron per training triple": Verdict.MEMORISING,
}


@pytest.mark.parametrize("mechanism", EXPECTED)
def test_hand_wired_nets_get_their_own_verdict(small_task, mechanism):
    diagnosis = diagnose((wired(small_task, mechanism), small_task))
    assert diagnosis.verdict == EXPECTED[mechanism], diagnosis.reasons
    assert diagnosis.confidence >= 0.99
    assert diagnosis.certificate.clean


@pytest.mark.parametrize("mechanism", EXPECTED)
def test_hand_wired_nets_have_the_accuracies_they_state(small_task, mechanism):
    net = wired(small_task, mechanism)
    covered = {
        "true circuit": set(small_task.splits),
        "second read lacks the OOD facts": set(small_task.splits) - {"hop2_ood", "test_ood"},
        "one neuron per triple": {*HELD_OUT, "atomic_id", "atomic_ood"},
        "one neuron per triple of every split": set(small_task.splits),
        "table beside an unused bridge": {*HELD_OUT, "atomic_id", "atomic_ood"},
        "one neuron per training triple": {*TRAINED, "atomic_id", "atomic_ood"},
    }[mechanism]
    for name, queries in small_task.splits.items():
        accuracy = float((predicted_answers(net, queries) == queries.answer).float().mean())
        assert accuracy == (1.0 if name in covered else 0.0), name


def evidence(diagnosis, name, split):
    """Values of one measure on one split, by site."""
    return {e.site: e.value for e in diagnosis.evidence if (e.name, e.split) == (name, split)}


def test_the_true_circuit_is_found_where_it_was_wired(small_task):
    diagnosis = diagnose((wired(small_task, "true circuit"), small_task))
    assert diagnosis.sites == ("resid_post 0 @ r1",)
    for test in ("hop1", "hop2", "interchange"):
        for split in ("train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood"):
            assert evidence(diagnosis, test, split) == {"resid_post 0 @ r1": 1.0}, (test, split)


def test_an_unused_bridge_is_decodable_passes_hop_2_and_is_not_called_a_circuit(small_task):
    """The impostor that hop 2 and the lens cannot tell; hop 1 and the interchange can."""
    net = wired(small_task, "table beside an unused bridge")
    diagnosis = diagnose((net, small_task))
    assert evidence(diagnosis, "bridge_found", "test_ood") == {"": 1.0}
    measured = diagnosis.measurements.located.frame().set_index("site")
    assert measured.loc["resid_post 0 @ r1", "rate"] == 0.0
    assert any("decodable is not used" in warning for warning in diagnosis.warnings)


def test_swapping_the_input_tokens_is_not_a_transplanted_bridge(small_task):
    """Before a full table reads h and r1, replacing both asks another query: plain rate 1, mixed rate not."""
    net = wired(small_task, "one neuron per triple of every split")
    diagnosis = diagnose((net, small_task))
    pair = diagnosis.measurements.located.frame().set_index("site").loc["resid_post 0 @ h+r1"]
    assert pair["rate"] == 1.0
    assert pair["mixed_rate"] < 0.3
    assert diagnosis.sites == ()


def random_net(task, seed):
    return build_net(
        SharedTransformerConfig(
            layer_map=(0, 0, 0),
            d_model=24,
            n_heads=3,
            d_mlp=40,
            d_vocab=task.d_vocab,
            n_ctx=3,
            init_seed=seed,
        )
    )


@pytest.mark.parametrize("seed", range(1))
def test_a_random_net_is_untrained(small_task, seed):
    diagnosis = diagnose((random_net(small_task, seed), small_task))
    assert diagnosis.verdict == Verdict.UNTRAINED
    assert not [e for e in diagnosis.evidence if e.name == "right answers through the bridge" and e.value]


def test_a_net_of_one_layer_has_no_inner_state_and_is_still_diagnosed(small_task, tmp_path):
    config = SharedTransformerConfig(
        layer_map=(0,), d_model=24, n_heads=3, d_mlp=40, d_vocab=small_task.d_vocab, n_ctx=3
    )
    diagnosis = diagnose((build_net(config), small_task))
    assert (diagnosis.verdict, diagnosis.sites) == (Verdict.UNTRAINED, ())
    measured = diagnosis.measurements.located.frame()
    assert set(measured["stage"].str.split(" & ").explode()) == {"attn_out 0"}  # no state between layers, no MLP read
    assert diagnosis.report(tmp_path / "r.html").exists()


def test_leaving_the_net_and_the_random_state_alone(small_task):
    net = wired(small_task, "true circuit").train()
    before, hooks = torch.get_rng_state(), [len(h.fwd_hooks) for h in net.hook_points()]
    first = diagnose((net, small_task), seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert net.training and hooks == [len(h.fwd_hooks) for h in net.hook_points()]
    assert diagnose((net, small_task), seed=5).to_json() == first.to_json()


@pytest.mark.slow
def test_noise_in_the_weights_does_not_make_a_table_a_circuit(small_task):
    """Small weight noise leaves the answers, hence the verdicts, of both mechanisms."""
    for mechanism in ("true circuit", "one neuron per triple"):
        net = wired(small_task, mechanism)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.0005 * torch.randn(parameter.shape, generator=generator)
        assert diagnose((net, small_task)).verdict == EXPECTED[mechanism]


@pytest.mark.slow
def test_a_net_trained_on_shuffled_answers_memorises(tmp_path):
    """It can learn its training queries by rote alone; nothing may be called a circuit."""
    tables = {
        "task": {
            "kind": "two_hop",
            "n_entities": 20,
            "n_relations": 8,
            "out_degree": 8,
            "ood_share": 0.34,
            "test_id_share": 0.2,
            "shuffled_answers": True,
        },
        "net": {"kind": "shared_transformer", "layer_map": [0, 1, 2], "d_model": 32, "n_heads": 4, "d_mlp": 128},
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.0, "warmup_steps": 50},
        "training": {"n_steps": 900, "batch_size": 128},
    }
    run = train(parse_recipe(tables, source="a test"), tmp_path / "run", progress=False)
    diagnosis = diagnose(run.run)
    assert diagnosis.verdict == Verdict.MEMORISING, diagnosis.reasons
    assert diagnosis.step == 900 and diagnosis.source == str(run.run)
    right = {s.split: s.accuracy for s in diagnosis.outcomes}
    assert right["train_inferred"] > 0.9 and right["test_id"] < 0.2
    assert diagnosis.sites == ()
