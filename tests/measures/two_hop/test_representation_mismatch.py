"""Late states where a net reads an entity: by hand on wired nets, pair by pair with plain hooks, and the errors."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from full_world import D_VOCAB, N_RELATIONS, make_world
from recursive_nets import make_recursive_net
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.two_hop.representation_mismatch import (
    ANOTHER,
    LATE,
    LATER,
    MAPPED,
    MISMATCHED,
    NEW_ENTITY,
    OWN,
    SHIFTED,
    _draw_pairs,
    _rotated,
    _tail_table,
    representation_mismatch,
)
from circuit_lab.nets.controls.perturb import with_noise
from circuit_lab.nets.controls.two_hop.wiring import (
    FOUND,
    PREVIOUS,
    R1,
    R2,
    Copy,
    Layer,
    Stream,
    Table,
    read_at_r2,
    wire,
)
from circuit_lab.tasks import Queries

WORLD, QUERIES = make_world()


def atomic(facts):
    n = len(facts)
    return Queries(
        tokens=torch.cat([facts[:, :2], torch.full((n, 1), D_VOCAB - 1)], dim=1),
        answer=facts[:, 2],
        answer_position=torch.ones(n, dtype=torch.long),
        facts=torch.stack([torch.arange(n), torch.full((n,), -1)], dim=1),
        in_training=torch.ones(n, dtype=torch.bool),
        position_names=("h", "r1", "r2"),
    )


FACTS = atomic(WORLD)


def net_of_one_form():
    """A circuit whose bridge is written at r1 in the form that is unembedded, and read at r2 in that form."""
    stream = Stream(D_VOCAB, ("OUT", "IN"))
    h, r, t = WORLD.unbind(1)
    find = Table(stream.at("IN", h), (stream.at("OUT", r), stream.position(R1)), stream.at("OUT", t), highest=FOUND)
    second = Layer(heads=[PREVIOUS], tables=[read_at_r2(stream, WORLD, bridge="IN")])
    return wire([Layer(heads=[PREVIOUS], tables=[find]), second], stream=stream)


def net_of_two_forms():
    """A circuit without weight sharing that reads an entity in one form, and states it in another.

    The first layer writes the bridge at r1 into `HIDDEN`, which the second reads at r2. The second also turns r1's
    `HIDDEN` into `SAID`, which the unembedding reads, and wipes `HIDDEN`: neurons that fire at FOUND + FOUND - FOUND -
    1/2 = 3.5 take away the FOUND = 4 that stands there. Embeddings stand in `OUT`.
    """
    stream = Stream(D_VOCAB, ("OUT", "IN", "HIDDEN", "BRIDGE", "SAID"))
    h, r, t = WORLD.unbind(1)
    entities = t.unique()
    find = Table(stream.at("IN", h), (stream.at("OUT", r),), stream.at("HIDDEN", t), highest=FOUND)
    hop2 = (stream.at("OUT", r), stream.position(R2))
    answer = Table(stream.at("BRIDGE", h), hop2, stream.at("SAID", t), highest=FOUND)
    at_r1 = {"entity": stream.at("HIDDEN", entities), "gates": (stream.position(R1),), "highest": FOUND}
    state = Table(writes=stream.at("SAID", entities), **at_r1)
    wipe = Table(writes=stream.at("HIDDEN", entities), weight=-FOUND / (FOUND - 0.5), **at_r1)
    carry = Copy(source="HIDDEN", target="BRIDGE", attends=PREVIOUS.attends)
    layers = [Layer(heads=[PREVIOUS], tables=[find]), Layer(heads=[carry], tables=[answer, state, wipe])]
    return wire(layers, stream=stream, unembedded=("SAID", "OUT"))


QUERIES_OF = {"bridge": QUERIES, "input": FACTS}


def measured(net, place, **changes):
    return representation_mismatch(net, QUERIES_OF[place], FACTS, FACTS, place=place, **changes)


def draw(known, *, place="bridge", queries=None, generator=None):
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    queries = QUERIES_OF[place] if queries is None else queries
    column = {"bridge": 1, "input": 0}[place]
    return _draw_pairs(queries, FACTS, _tail_table(known, d_vocab=D_VOCAB), column, generator=generator)


def shares(result):
    frame = result.frame()
    return dict(zip(frame["state"], frame["share"], strict=True))


@pytest.mark.parametrize("place", ["bridge", "input"])
def test_one_form_of_an_entity_is_read_as_it_is_stated(place):
    share = shares(measured(net_of_one_form(), place))
    assert share[SHIFTED] == share[OWN] == 1.0
    # At h the late state is taken for one of r1's position, to which no head of r1 attends.
    assert (share[LATE] == 1.0) is (place == "bridge")
    assert share[ANOTHER] < 0.2
    assert share[MISMATCHED] < 0.4


@pytest.mark.parametrize("place", ["bridge", "input"])
def test_two_forms_of_an_entity(place):
    """The late form is not read; a fitted map translates it, but tells nothing of an entity it has not seen."""
    net = net_of_two_forms()
    for queries in (QUERIES, FACTS):
        answers = net(queries.tokens)[torch.arange(len(queries)), queries.answer_position].argmax(-1)
        assert torch.equal(answers, queries.answer)
    result = measured(net, place)
    share = shares(result)
    assert share[OWN] == share[MAPPED] == 1.0
    assert share[LATE] == share[ANOTHER] == 0.0
    assert share[SHIFTED] < 0.4
    assert share[NEW_ENTITY] < 0.5
    assert share[MISMATCHED] < 0.4
    stage, position = {"bridge": ("resid_post 0", "r1"), "input": ("embed", "h")}[place]
    assert (result.stages, result.late_stage, result.position) == ((stage,), "resid_post 1", position)


def test_what_is_written_later_does_not_carry_what_stood_there_before():
    """A net whose second layer adds nothing at r1: its late state is read, for it is the early one."""
    stream = Stream(D_VOCAB, ("OUT", "IN", "BRIDGE"))
    h, r, t = WORLD.unbind(1)
    find = Table(stream.at("IN", h), (stream.at("OUT", r),), stream.at("OUT", t), highest=FOUND)
    second = Layer(
        heads=[Copy(source="OUT", target="BRIDGE", attends=PREVIOUS.attends)],
        tables=[read_at_r2(stream, WORLD, bridge="BRIDGE")],
    )
    share = shares(measured(wire([Layer(heads=[PREVIOUS], tables=[find]), second], stream=stream), "bridge"))
    assert share[LATE] == 1.0
    assert share[LATER] < 0.4


def test_the_best_rotation_is_found():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    turned = 2.5 * x @ turn + 3
    assert torch.allclose(_rotated(x[:30], turned[:30], x[30:]), turned[30:])
    stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1])
    assert not torch.allclose(_rotated(x[:30], stretched[:30], x[30:]), stretched[30:], atol=0.1)


@torch.no_grad()
def recursive_net_of_facts():
    """A random net whose unembedding is fitted to the answers of all facts, two prefix positions before them."""
    net = make_recursive_net(n_ctx=3, l_cycles=1, d_model=64, n_heads=4, d_vocab=D_VOCAB, d_vocab_out=D_VOCAB)
    _, seen = net.run_with_cache(FACTS.tokens)
    answers = torch.nn.functional.one_hot(FACTS.answer, D_VOCAB).double()
    net.W_U.copy_(torch.linalg.lstsq(seen[net.lens_sites[-1].hook_name][:, 2 + 1], answers).solution)
    return net


@pytest.mark.parametrize(("place", "column"), [("bridge", 1), ("input", 0)])
@pytest.mark.parametrize("kind", ["shared", "recursive"])
def test_one_pair_at_a_time_with_plain_hooks(kind, place, column):
    if kind == "recursive":
        net, n_prefix = recursive_net_of_facts(), 2
    else:
        net = with_noise(net_of_one_form(), std_share=0.6, generator=torch.Generator().manual_seed(3))
        n_prefix = 0
    into, late = net.lens_sites[1 if place == "bridge" else 0].hook_name, net.lens_sites[-1].hook_name
    result = measured(net, place, n_pairs=40)
    if kind == "recursive" and place == "input":
        assert shares(result)[OWN] == 1.0  # the token itself
    generator = derive_generator(0, "pairs")  # as there, so that the pairs are the same
    sample = QUERIES_OF[place].sample(40, generator=generator)
    pairs = draw(FACTS, place=place, queries=sample, generator=generator)

    def put(value, state, hook):
        del hook
        state = state.clone()
        state[:, n_prefix + column] = value
        return state

    answers = []
    for i in range(len(pairs.wanted)):
        _, cache = net.run_with_cache(FACTS.tokens[pairs.fact[i], None])
        hook = (into, partial(put, cache[late][:, n_prefix + 1]))
        asked = pairs.queries[torch.tensor([i])]
        logits = net.run_with_hooks(asked.tokens, fwd_hooks=[hook])
        answers.append(int(logits[0, asked.answer_position[0]].argmax()))
    hits = torch.tensor(answers) == pairs.wanted
    assert torch.equal(result.hits[result.states.index(LATE), 0], hits)
    assert 0 < hits.sum() < len(hits)


@pytest.mark.parametrize(("place", "column"), [("bridge", 1), ("input", 0)])
def test_pairs_ask_for_what_only_a_read_entity_gives(place, column):
    pairs = draw(FACTS, place=place)
    entity, other = FACTS.answer[pairs.fact], FACTS.answer[pairs.other]
    tail = WORLD[:, 2].view(-1, N_RELATIONS)
    relation = pairs.queries.tokens[:, column + 1] - len(tail)
    assert len(pairs.wanted) > len(QUERIES_OF[place]) // 2
    assert torch.equal(pairs.wanted, tail[entity, relation])
    assert (pairs.wanted != tail[other, relation]).all()
    there = pairs.queries.intermediates["bridge"] if place == "bridge" else pairs.queries.tokens[:, 0]
    for answer in (pairs.queries.answer, there, entity):
        assert (pairs.wanted != answer).all()


def test_only_known_facts_are_asked_for():
    pairs = draw(FACTS[WORLD[:, 0] == 2])
    assert set(FACTS.answer[pairs.fact].tolist()) == {2}
    assert 0 < len(pairs.wanted) < len(QUERIES)


def test_the_seed_decides_and_nothing_else_moves():
    net = net_of_one_form()
    state = torch.random.get_rng_state()
    results = [measured(net, "bridge", seed=seed, n_pairs=50).frame() for seed in (4, 4, 5)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert results[0].equals(results[1])
    assert not results[0].equals(results[2])


def test_what_cannot_be_measured_is_refused():
    net, at = net_of_one_form(), {"place": "bridge"}
    with pytest.raises(ValueError, match="'bridge' needs two-hop queries"):
        representation_mismatch(net, FACTS, FACTS, FACTS, **at)
    with pytest.raises(ValueError, match="'input' needs atomic queries"):
        representation_mismatch(net, QUERIES, FACTS, FACTS, place="input")
    with pytest.raises(ValueError, match="at least 5 answers, read at one position; got .* with 4 answers"):
        representation_mismatch(net, QUERIES, FACTS[FACTS.answer != 2], FACTS, **at)
    with pytest.raises(ValueError, match=r"read at \[1, 2\]"):
        representation_mismatch(net, QUERIES, replace(FACTS, answer_position=1 + torch.arange(60) % 2), FACTS, **at)
    with pytest.raises(ValueError, match="there is no pair"):
        representation_mismatch(net, QUERIES, FACTS, FACTS[:0], **at)
