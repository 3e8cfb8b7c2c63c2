"""Each hand-wired two-hop net has the mechanism it states: brute force over every query and every bridge put in."""

from itertools import product

import pytest
import torch
from full_world import N_ENTITIES, N_RELATIONS
from wired_two_hop import (
    BRIDGE,
    CIRCUITS,
    D_VOCAB,
    FACTS,
    QUERIES,
    TABLES,
    TAIL,
    TRIPLES,
    activation,
    answer_of,
    answers,
    codes,
    generator,
    logits,
    world_net,
)

from circuit_lab.nets.controls.two_hop import (
    duplicate_paths,
    fact_table_read_twice,
    pair_through_r1,
    triple_table_over_circuit,
)

MLP_0 = "blocks.0.hook_mlp_out"
AFTER_0 = "blocks.0.hook_resid_post"
H, R1, R2 = range(3)
BRIDGE_AT = {"shared": R1, "unshared": R1, "hidden": R1, "at h": H, "at r2": R2}
"""Position where the first MLP writes the bridge, in the circuits that write it once and whole."""


# --- circuits: the answer follows the bridge, and nothing else


@pytest.mark.parametrize(("name", "position"), BRIDGE_AT.items())
def test_the_answer_follows_the_bridge_put_in(name, position):
    net = world_net(name)
    written = codes(net, MLP_0, position)
    assert (torch.cdist(written, written) + 9 * torch.eye(N_ENTITIES) > 5).all()  # sqrt(2) * 4 apart
    for bridge in range(N_ENTITIES):
        assert torch.equal(answers(net, puts=[(MLP_0, position, written[bridge])]), answer_of(bridge))
    assert torch.equal(answers(net, puts=[(MLP_0, position, 0.0)]), QUERIES.tokens[:, R2])


@pytest.mark.parametrize(("name", "position"), [*BRIDGE_AT.items(), ("split", None)])
def test_the_last_layer_reads_nothing_else_of_h_and_r1(name, position):
    """Whatever else stands at h and r1 after the first layer, the answer is the same."""
    net = world_net(name)
    state = activation(net, AFTER_0)
    written = activation(net, MLP_0)
    tokens_of_others = state.roll(17, dims=0) - written.roll(17, dims=0)
    puts = [(AFTER_0, p, tokens_of_others[:, p] + written[:, p]) for p in (H, R1)]
    assert torch.equal(answers(net, puts=puts), QUERIES.answer)
    if position is not None:
        puts = [(AFTER_0, p, torch.zeros(())) for p in (H, R1) if p != position]
        assert torch.equal(answers(net, puts=puts), QUERIES.answer)


def test_a_bridge_beside_r2_moves_with_r2_only():
    """At r2's position the stream is the source's whole question; the MLP's output is the bridge alone."""
    net = world_net("at r2")
    source = torch.randperm(len(QUERIES), generator=generator(4))
    moved = answers(net, puts=[(AFTER_0, R2, activation(net, AFTER_0)[source, R2])])
    assert torch.equal(moved, QUERIES.answer[source])
    moved = answers(net, puts=[(MLP_0, R2, activation(net, MLP_0)[source, R2])])
    assert torch.equal(moved, answer_of(BRIDGE[source]))
    elsewhere = [(AFTER_0, p, activation(net, AFTER_0)[source, p]) for p in (H, R1)]
    assert torch.equal(answers(net, puts=elsewhere), QUERIES.answer)


def test_unshared_layers_hold_equal_tables_of_their_own():
    net, tied = world_net("unshared"), world_net("shared")
    first, second = (dict(block.named_parameters()) for block in net.blocks)
    assert all(torch.equal(weight, second[name]) and weight is not second[name] for name, weight in first.items())
    assert tied.blocks[0].mlp.W_in is tied.blocks[1].mlp.W_in
    assert torch.equal(logits(net, QUERIES.tokens), logits(tied, QUERIES.tokens))


@pytest.mark.parametrize("missing", ["first_read", "second_read"])
def test_a_missing_read_breaks_its_own_hop(missing):
    held = torch.rand(len(FACTS), generator=generator(6)) < 0.6
    net = fact_table_read_twice(FACTS, d_vocab=D_VOCAB, **{missing: FACTS[held]})
    written, full = activation(net, MLP_0)[:, R1], codes(world_net("shared"), MLP_0, R1)
    first_held, second_held = held[QUERIES.facts].unbind(1)
    for bridge in range(N_ENTITIES):
        put_in = answers(net, puts=[(MLP_0, R1, full[bridge])])
        known = held[bridge * N_RELATIONS + QUERIES.tokens[:, R2] - N_ENTITIES]
        known |= torch.tensor(missing == "first_read")
        # A bridge put in is composed with the facts that the second read holds: all, if only the first lacks some.
        assert torch.equal(put_in, torch.where(known, answer_of(bridge), QUERIES.tokens[:, R2]))
    handed_on = torch.where(first_held[:, None], full[BRIDGE], 0.0) if missing == "first_read" else full[BRIDGE]
    torch.testing.assert_close(written, handed_on)
    works = first_held if missing == "first_read" else second_held
    assert torch.equal(answers(net), torch.where(works, QUERIES.answer, QUERIES.tokens[:, R2]))


# --- the logit lens


def lens(net, stage):
    """Top token of the lens at every position; the unembedding alone, as there is no norm."""
    with torch.no_grad():
        return net.logits_at(activation(net, stage)).argmax(-1)


@pytest.mark.parametrize(
    ("name", "position"), [("shared", R1), ("unshared", R1), ("at h", H), ("at r2", R2), ("table with decoy", R1)]
)
def test_the_lens_reads_a_plain_bridge_where_it_is_written(name, position):
    read = lens(world_net(name), AFTER_0)
    assert torch.equal(read[:, position], BRIDGE)
    others = [p for p in (H, R1, R2) if p != position]
    assert torch.equal(read[:, others], QUERIES.tokens[:, others])


@pytest.mark.parametrize("name", ["hidden", "split", "pair", "table"])
def test_the_lens_reads_tokens_only_before_the_last_layer(name):
    net = world_net(name)
    for stage in ("blocks.0.hook_resid_pre", AFTER_0):
        assert torch.equal(lens(net, stage), QUERIES.tokens)


def test_a_hidden_bridge_leaves_no_trace_in_the_unembedding():
    net = world_net("hidden")
    written = codes(net, MLP_0, R1)
    torch.testing.assert_close(net.logits_at(written), torch.zeros(N_ENTITIES, D_VOCAB), atol=1e-5, rtol=0)
    # Directions of their own, at right angles, at the height of an entity found; no coordinate holds a bridge alone.
    torch.testing.assert_close(written @ written.T, 16 * torch.eye(N_ENTITIES), atol=1e-4, rtol=0)
    assert written.abs().max() < 3.9


# --- half a bridge


def test_a_split_bridge_needs_both_halves():
    """Five entities have the digits 00, 01, 02, 10, 11 in base 3; 12 names none."""
    net = world_net("split")
    high, low = (codes(net, MLP_0, position) for position in (H, R1))
    digits = [(number // 3, number % 3) for number in range(N_ENTITIES)]
    assert torch.equal(torch.cdist(high, high) < 0.1, torch.tensor([[a == b for b, _ in digits] for a, _ in digits]))
    assert torch.equal(torch.cdist(low, low) < 0.1, torch.tensor([[a == b for _, b in digits] for _, a in digits]))
    for from_high, from_low in product(range(N_ENTITIES), repeat=2):
        named = (digits[from_high][0], digits[from_low][1])
        wanted = answer_of(digits.index(named)) if named in digits else QUERIES.tokens[:, R2]
        assert torch.equal(answers(net, puts=[(MLP_0, H, high[from_high]), (MLP_0, R1, low[from_low])]), wanted)


# --- backups


def paths_of(n_paths):
    """Hook and position where each path writes its bridge."""
    return [(MLP_0, R1), *((f"blocks.{layer}.hook_mlp_out", R2) for layer in range(n_paths - 1))]


@pytest.mark.parametrize(("n_paths", "n_queries"), [(3, 720), (5, 30)])
def test_paths_vote_and_the_majority_wins(n_paths, n_queries):
    net = duplicate_paths(FACTS, d_vocab=D_VOCAB, n_paths=n_paths)
    rows = torch.randperm(len(QUERIES), generator=generator())[:n_queries]
    tokens, answer = QUERIES.tokens[rows], QUERIES.answer[rows]
    written = [codes(net, *path) for path in paths_of(n_paths)]
    other = (BRIDGE + 1) % N_ENTITIES
    wanted = answer_of(other)[rows]
    for replaced in product([False, True], repeat=n_paths):
        puts = [
            (*path, code[other[rows]])
            for path, code, chosen in zip(paths_of(n_paths), written, replaced, strict=True)
            if chosen
        ]
        given, votes = logits(net, tokens, puts=puts)[:, R2], sum(replaced)
        assert torch.equal(given.argmax(-1), wanted if 2 * votes > n_paths else answer)
        expected = torch.zeros(n_queries, D_VOCAB).scatter_(1, tokens[:, R2:], 1.0)
        expected.scatter_add_(1, answer[:, None], torch.full((n_queries, 1), 28.0 * (n_paths - votes)))
        expected.scatter_add_(1, wanted[:, None], torch.full((n_queries, 1), 28.0 * votes))
        torch.testing.assert_close(given, expected, atol=1e-3, rtol=0)


def test_paths_do_not_pass_through_one_another():
    net, paths = world_net("three paths"), paths_of(3)
    before = [activation(net, name)[:, position] for name, position in paths]
    for changed in range(3):
        puts = [(*paths[changed], 0.0)]
        after = [activation(net, name, puts=puts)[:, position] for name, position in paths]
        same = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        assert same == [path != changed for path in range(3)]


def test_without_its_bridges_a_net_with_backups_answers_nothing():
    net = world_net("three paths")
    silenced = answers(net, puts=[(*path, 0.0) for path in paths_of(3)])
    assert torch.equal(silenced, QUERIES.tokens[:, R2])
    one_left = answers(net, puts=[(*path, 0.0) for path in paths_of(3)[:2]])
    assert torch.equal(one_left, QUERIES.answer)


# --- tables


@pytest.mark.parametrize("name", ["table", "table with decoy"])
def test_a_table_reads_no_bridge(name):
    net = world_net(name)
    full = codes(world_net("shared"), MLP_0, R1)
    if name == "table":
        assert not activation(net, MLP_0).any()
    else:
        # The decoy is the circuit's bridge, to the last bit.
        assert torch.equal(codes(net, MLP_0, R1), full)
    for bridge in range(N_ENTITIES):
        assert torch.equal(answers(net, puts=[(MLP_0, R1, full[bridge])]), QUERIES.answer)


def test_listed_queries_ignore_the_bridge_and_the_others_follow_it():
    listed = torch.rand(len(TRIPLES), generator=generator(8)) < 0.5
    net = triple_table_over_circuit(FACTS, TRIPLES[listed], d_vocab=D_VOCAB)
    written = codes(net, MLP_0, R1)
    for bridge in range(N_ENTITIES):
        given = answers(net, puts=[(MLP_0, R1, written[bridge])])
        assert torch.equal(given, torch.where(listed, QUERIES.answer, answer_of(bridge)))
    # Nothing at h's or r1's position after the first layer matters to a listed query.
    other = torch.randperm(len(QUERIES), generator=generator(9))
    puts = [(AFTER_0, p, activation(net, AFTER_0)[other, p]) for p in (H, R1)]
    assert torch.equal(answers(net, puts=puts)[listed], QUERIES.answer[listed])


# --- a pair of tokens that looks like a bridge


def test_the_state_at_r1_is_a_pair_of_tokens():
    net = world_net("pair")
    assert not activation(net, MLP_0).any()
    state = activation(net, AFTER_0)[:, R1].reshape(N_ENTITIES, N_RELATIONS, N_RELATIONS, -1)
    assert torch.equal(state, state[:, :, :1].expand_as(state))  # r2 is not in it
    state = state[:, :, 0]
    assert len(state.flatten(0, 1).unique(dim=0)) == len(FACTS)
    # A sum of a part for h and a part for r1: no part for the bridge, nor for anything that both decide.
    by_parts = state[:, :1] + state[:1] - state[:1, :1]
    torch.testing.assert_close(state, by_parts.expand_as(state))
    mates = [(a, b) for a, b in product(range(60), repeat=2) if a < b and FACTS[a, 2] == FACTS[b, 2]]
    distance = torch.cdist(state.flatten(0, 1), state.flatten(0, 1))
    # Facts with one tail are as far apart as any others: sqrt(2) for each token that differs.
    assert min(distance[a, b] for a, b in mates) > 1.4


def test_a_whole_state_passes_for_a_bridge_only_where_the_table_lists_the_query():
    source = torch.randperm(len(QUERIES), generator=generator(10))
    net = world_net("pair")
    moved = answers(net, puts=[(AFTER_0, R1, activation(net, AFTER_0)[source, R1])])
    assert torch.equal(moved, answer_of(BRIDGE[source]))
    listed = torch.rand(len(TRIPLES), generator=generator(11)) < 0.5
    partial = pair_through_r1(FACTS, TRIPLES[listed], d_vocab=D_VOCAB)
    moved = answers(partial, puts=[(AFTER_0, R1, activation(partial, AFTER_0)[source, R1])])
    h, r1 = QUERIES.tokens[source, H], QUERIES.tokens[source, R1] - N_ENTITIES
    r2 = QUERIES.tokens[:, R2] - N_ENTITIES
    asked = (h * N_RELATIONS + r1) * N_RELATIONS + r2
    assert torch.equal(moved, torch.where(listed[asked], TAIL[TAIL[h, r1], r2], QUERIES.tokens[:, R2]))


def test_all_that_reaches_r2_comes_through_r1():
    net = world_net("pair")
    puts = [(AFTER_0, H, torch.zeros(()))]
    assert torch.equal(answers(net, puts=puts), QUERIES.answer)
    circuit = CIRCUITS["shared"](FACTS, D_VOCAB)
    table = TABLES["table"](FACTS, TRIPLES, D_VOCAB)
    assert torch.equal(answers(circuit, puts=puts), QUERIES.answer)
    assert torch.equal(answers(table, puts=puts), QUERIES.tokens[:, R2])  # this one reads h at h's position
