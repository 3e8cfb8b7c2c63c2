"""Hand-wired two-hop nets: logits by hand, every query of a world, the accuracies of a task, what is refused."""

import pytest
import torch
from full_world import N_ENTITIES
from wired_two_hop import (
    CIRCUITS,
    D_VOCAB,
    FACTS,
    PAD,
    QUERIES,
    TABLES,
    TRIPLES,
    answers,
    generator,
    logits,
    triples,
    world_net,
)

from circuit_lab.measures import predicted_answers
from circuit_lab.nets.controls.two_hop import (
    duplicate_paths,
    fact_table_read_twice,
    hidden_bridge,
    triple_table,
    triple_table_over_circuit,
)

ALL = [*CIRCUITS, *TABLES]


# --- by hand: the facts (0, 3, 1) and (1, 4, 2), the query (0, 3, 4) -> 2, tokens 0..5

TWO_FACTS = torch.tensor([[0, 3, 1], [1, 4, 2]])
# A neuron on a token writes 8 (1 - 1/2) = 4, on a bridge at height 4 it writes 8 (4 - 1/2) = 28; r2 itself stands at 1.
# In the shared net r1's position is read twice, from h at heights 1 and 2: 4 + 12.
BY_HAND = {
    "shared": ([0, 16, 0, 1, 0, 0], [0, 0, 28, 0, 1, 0]),
    "unshared": ([0, 16, 0, 1, 0, 0], [0, 0, 28, 0, 1, 0]),
    "hidden": ([0, 28, 0, 1, 0, 0], [0, 0, 28, 0, 1, 0]),
    "at h": ([0, 28, 0, 1, 0, 0], [0, 0, 28, 0, 1, 0]),
    "at r2": ([0, 4, 0, 1, 0, 0], [0, 4, 28, 0, 1, 0]),
    "split": ([0, 4, 0, 1, 0, 0], [0, 0, 4, 0, 1, 0]),
    "three paths": ([0, 4, 0, 1, 0, 0], [0, 0, 84, 0, 1, 0]),
    "table": ([0, 4, 0, 1, 0, 0], [0, 0, 4, 0, 1, 0]),
    "table with decoy": ([0, 4, 0, 1, 0, 0], [0, 0, 4, 0, 1, 0]),
    "pair": ([0, 4, 0, 1, 0, 0], [0, 0, 4, 0, 1, 0]),
    "over circuit": ([0, 16, 0, 1, 0, 0], [0, 0, 28 + 56, 0, 1, 0]),
}


@pytest.mark.parametrize("name", ALL)
def test_logits_by_hand(name):
    net = CIRCUITS[name](TWO_FACTS, 6) if name in CIRCUITS else TABLES[name](TWO_FACTS, torch.tensor([[0, 3, 4, 2]]), 6)
    at_r1, at_r2 = BY_HAND[name]
    given = logits(net, torch.tensor([[0, 3, 4]]))[0]
    torch.testing.assert_close(given[1:], torch.tensor([at_r1, at_r2]).float(), atol=1e-4, rtol=0)


def test_a_listed_query_overrules_the_circuit_by_hand():
    net = triple_table_over_circuit(TWO_FACTS, torch.tensor([[0, 3, 4, 5]]), d_vocab=6)
    given = logits(net, torch.tensor([[0, 3, 4]]))[0, 2]
    torch.testing.assert_close(given, torch.tensor([0, 0, 28.0, 0, 1, 56]), atol=1e-4, rtol=0)


# --- every query of a full world


@pytest.mark.parametrize("name", ALL)
def test_every_query_and_every_fact_is_answered_right(name):
    net = world_net(name)
    assert torch.equal(answers(net), QUERIES.answer)
    atomic = torch.cat([FACTS[:, :2], torch.full((len(FACTS), 1), PAD)], dim=1)
    assert torch.equal(logits(net, atomic)[:, 1].argmax(-1), FACTS[:, 2])
    # The fact is read off its own two tokens, whatever follows.
    assert torch.equal(logits(net, QUERIES.tokens)[:, 1].argmax(-1), QUERIES.intermediates["bridge"])


@pytest.mark.parametrize("name", ALL)
def test_new_names_for_the_tokens_change_nothing_else(name):
    new = torch.randperm(D_VOCAB, generator=generator(5))
    renamed = (
        CIRCUITS[name](new[FACTS], D_VOCAB) if name in CIRCUITS else TABLES[name](new[FACTS], new[TRIPLES], D_VOCAB)
    )
    before, after = logits(world_net(name), QUERIES.tokens), logits(renamed, new[QUERIES.tokens])
    torch.testing.assert_close(after[:, 1:, new], before[:, 1:], atol=1e-4, rtol=0)


def test_rows_in_another_order_make_the_same_net():
    order, net = torch.randperm(len(FACTS), generator=generator(1)), world_net("three paths")
    torch.testing.assert_close(
        logits(CIRCUITS["three paths"](FACTS[order], D_VOCAB), QUERIES.tokens), logits(net, QUERIES.tokens)
    )


@pytest.mark.parametrize("name", ["table", "table with decoy", "pair"])
def test_a_query_that_no_table_lists_gets_its_own_last_token(name):
    listed = torch.rand(len(TRIPLES), generator=generator(2)) < 0.7
    given = answers(TABLES[name](FACTS, TRIPLES[listed], D_VOCAB))
    assert torch.equal(given, torch.where(listed, QUERIES.answer, QUERIES.tokens[:, 2]))


def test_the_table_decides_what_it_lists_and_the_circuit_the_rest():
    listed = torch.rand(len(TRIPLES), generator=generator(3)) < 0.4
    wrong = TRIPLES.clone()
    wrong[:, 3] = (wrong[:, 3] + 1) % N_ENTITIES
    given = answers(triple_table_over_circuit(FACTS, wrong[listed], d_vocab=D_VOCAB))
    assert torch.equal(given, torch.where(listed, wrong[:, 3], QUERIES.answer))


def test_an_empty_table_over_a_circuit_is_the_circuit():
    net = triple_table_over_circuit(FACTS, TRIPLES[:0], d_vocab=D_VOCAB)
    torch.testing.assert_close(logits(net, QUERIES.tokens), logits(world_net("unshared"), QUERIES.tokens))


# --- the accuracies of a task's splits

INFERRED = ("train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood")


def accuracies(net, task):
    return {
        name: float((predicted_answers(net, queries) == queries.answer).double().mean())
        for name, queries in task.splits.items()
    }


@pytest.mark.parametrize("name", CIRCUITS)
def test_a_circuit_answers_every_split(small_task, name):
    assert set(accuracies(CIRCUITS[name](small_task.facts, small_task.d_vocab), small_task).values()) == {1.0}


@pytest.mark.parametrize(
    ("first", "second", "failed"),
    [
        ("all", "all", set()),
        ("id", "all", {"hop1_ood", "test_ood"}),
        ("all", "id", {"hop2_ood", "test_ood"}),
        ("id", "id", {"hop1_ood", "hop2_ood", "test_ood"}),
        ("none", "all", set(INFERRED)),
    ],
)
def test_a_read_that_lacks_facts_fails_its_hop_alone(small_task, first, second, failed):
    facts = small_task.facts
    reads = {"all": facts, "id": facts[~small_task.is_ood], "none": facts[:0]}
    net = fact_table_read_twice(facts, d_vocab=small_task.d_vocab, first_read=reads[first], second_read=reads[second])
    assert accuracies(net, small_task) == {split: float(split not in failed) for split in small_task.splits}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_every_split_answers_every_split(small_task, name):
    rows = torch.cat([triples(small_task.splits[split]) for split in INFERRED])
    net = TABLES[name](small_task.facts, rows, small_task.d_vocab)
    assert set(accuracies(net, small_task).values()) == {1.0}


@pytest.mark.parametrize("name", ["table", "table with decoy", "pair"])
def test_a_table_of_the_training_queries_memorises(small_task, name):
    net = TABLES[name](small_task.facts, triples(small_task.splits["train_inferred"]), small_task.d_vocab)
    right = {"atomic_id", "atomic_ood", "train_inferred"}
    assert accuracies(net, small_task) == {split: float(split in right) for split in small_task.splits}


# --- what is refused


@pytest.mark.parametrize("name", CIRCUITS)
def test_facts_that_no_circuit_can_hold_are_refused(name):
    refuse_bad_facts(lambda facts, d_vocab: CIRCUITS[name](facts, d_vocab))


@pytest.mark.parametrize("name", TABLES)
def test_facts_that_no_table_can_hold_are_refused(name):
    refuse_bad_facts(lambda facts, d_vocab: TABLES[name](facts, TRIPLES[:0], d_vocab))
    with pytest.raises(ValueError, match=r"triples must hold tokens in 0..17 .*got 18"):
        TABLES[name](FACTS, torch.tensor([[0, 5, 6, 18]]), D_VOCAB)
    with pytest.raises(ValueError, match=r"triples must list every question once, got \(0, 5, 6\) more than once"):
        TABLES[name](FACTS, torch.tensor([[0, 5, 6, 1], [0, 5, 6, 2]]), D_VOCAB)


def refuse_bad_facts(build):
    with pytest.raises(ValueError, match=r"facts must hold tokens in 0..15 \(d_vocab = 16\), got 16; raise d_vocab"):
        build(FACTS, 16)
    with pytest.raises(ValueError, match=r"facts must hold tokens in 0..5 .*got -1"):
        build(torch.tensor([[0, 3, -1]]), 6)
    with pytest.raises(ValueError, match=r"facts must list every question once, got \(0, 3\) more than once"):
        build(torch.tensor([[0, 3, 1], [1, 3, 1], [0, 3, 2]]), 6)
    with pytest.raises(ValueError, match=r"token 2 both as an entity and as a relation"):
        build(torch.tensor([[0, 2, 1], [1, 3, 2]]), 6)
    with pytest.raises(ValueError, match="facts is empty"):
        build(FACTS[:0], 6)


def test_reads_of_what_is_no_fact_are_refused():
    strange = torch.tensor([[0, 5, (FACTS[0, 2] + 1) % N_ENTITIES]])
    for name in ("first_read", "second_read"):
        with pytest.raises(ValueError, match=rf"{name} must hold rows of facts, got \(0, 5, \d\), which is none"):
            fact_table_read_twice(FACTS, d_vocab=D_VOCAB, **{name: strange})
        with pytest.raises(ValueError, match=rf"{name} must list every question once"):
            fact_table_read_twice(FACTS, d_vocab=D_VOCAB, **{name: FACTS[[3, 3]]})


@pytest.mark.parametrize("n_paths", [-3, 1, 2, 4])
def test_paths_that_could_tie_are_refused(n_paths):
    with pytest.raises(ValueError, match=f"n_paths must be odd and at least 3, got {n_paths}"):
        duplicate_paths(FACTS, d_vocab=D_VOCAB, n_paths=n_paths)


def test_the_nets_are_as_large_as_they_say():
    assert world_net("shared").cfg.layer_map == (0, 0)
    assert world_net("unshared").cfg.layer_map == (0, 1)
    for n_paths in (3, 5, 7):
        assert duplicate_paths(FACTS, d_vocab=D_VOCAB, n_paths=n_paths).cfg.n_layers == n_paths
    for name in ("at h", "split"):
        assert world_net(name).cfg.attention_dir == "bidirectional"
    assert triple_table(FACTS, TRIPLES, d_vocab=D_VOCAB).cfg.d_mlp == len(FACTS) + len(TRIPLES)
    assert not any(module.training for module in world_net("pair").modules())


def test_the_hidden_basis_is_drawn_by_the_generator():
    nets = [hidden_bridge(FACTS, d_vocab=D_VOCAB, generator=generator(seed)) for seed in (7, 7, 8)]
    assert torch.equal(nets[0].blocks[0].mlp.W_out, nets[1].blocks[0].mlp.W_out)
    assert not torch.allclose(nets[0].blocks[0].mlp.W_out, nets[2].blocks[0].mlp.W_out, atol=0.1)
