"""The hand-wired two-hop nets over a full world, and interventions on single components of them."""

from functools import cache

import torch
from full_world import N_ENTITIES, N_RELATIONS, make_world, triples

from circuit_lab.nets.controls.two_hop import (
    bridge_at_h,
    bridge_at_r2,
    duplicate_paths,
    fact_table_read_twice,
    hidden_bridge,
    pair_through_r1,
    split_bridge,
    triple_table,
    triple_table_over_circuit,
)

PAD = N_ENTITIES + N_RELATIONS
D_VOCAB = PAD + 1
FACTS, QUERIES = make_world()
TRIPLES = triples(QUERIES)
TAIL = FACTS[:, 2].reshape(N_ENTITIES, N_RELATIONS)
"""Tail of (entity, relation number), every one of which exists."""
BRIDGE = QUERIES.intermediates["bridge"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


CIRCUITS = {
    "shared": lambda facts, d_vocab: fact_table_read_twice(facts, d_vocab=d_vocab),
    "unshared": lambda facts, d_vocab: fact_table_read_twice(facts, d_vocab=d_vocab, shared=False),
    "hidden": lambda facts, d_vocab: hidden_bridge(facts, d_vocab=d_vocab, generator=generator()),
    "at h": lambda facts, d_vocab: bridge_at_h(facts, d_vocab=d_vocab),
    "at r2": lambda facts, d_vocab: bridge_at_r2(facts, d_vocab=d_vocab),
    "split": lambda facts, d_vocab: split_bridge(facts, d_vocab=d_vocab),
    "three paths": lambda facts, d_vocab: duplicate_paths(facts, d_vocab=d_vocab),
}
"""Circuits by name: (facts, d_vocab) -> net."""

TABLES = {
    "table": lambda facts, rows, d_vocab: triple_table(facts, rows, d_vocab=d_vocab),
    "table with decoy": lambda facts, rows, d_vocab: triple_table(facts, rows, d_vocab=d_vocab, unused_bridge=True),
    "pair": lambda facts, rows, d_vocab: pair_through_r1(facts, rows, d_vocab=d_vocab),
    "over circuit": lambda facts, rows, d_vocab: triple_table_over_circuit(facts, rows, d_vocab=d_vocab),
}
"""Nets with a table of whole queries, by name: (facts, triples, d_vocab) -> net."""


@cache
def world_net(name):
    """A net over the full world, which no test may change; a table lists every query."""
    return CIRCUITS[name](FACTS, D_VOCAB) if name in CIRCUITS else TABLES[name](FACTS, TRIPLES, D_VOCAB)


def _hooks(puts):
    """`puts` are (hook name, position, value) that replace an activation there."""

    def put_into(position, value):
        def put(activation, hook):
            activation[:, position] = value
            return activation

        return put

    return [(name, put_into(position, value)) for name, position, value in puts]


@torch.no_grad()
def logits(net, tokens, *, puts=()):
    """Logits at every position, with activations replaced by `puts`."""
    with net.hooks(fwd_hooks=_hooks(puts)):
        return net(tokens)


def answers(net, *, puts=()):
    """Top token at r2's position of every query."""
    return logits(net, QUERIES.tokens, puts=puts)[:, 2].argmax(-1)


@torch.no_grad()
def activation(net, name, *, puts=()):
    """An activation over the world's queries, `[n, pos, ...]`, with others replaced by `puts`."""
    with net.hooks(fwd_hooks=_hooks(puts)):
        _, cache = net.run_with_cache(QUERIES.tokens, names_filter=name)
    return cache[name]


def answer_of(bridge):
    """Answer of every query, were its bridge this one."""
    return TAIL[bridge, QUERIES.tokens[:, 2] - N_ENTITIES]


def codes(net, hook_name, position):
    """What a component writes for each bridge; fails if it depends on anything else."""
    written = activation(net, hook_name)[:, position]
    by_bridge = torch.stack([written[b == BRIDGE][0] for b in range(N_ENTITIES)])
    torch.testing.assert_close(written, by_bridge[BRIDGE], atol=1e-5, rtol=0)
    return by_bridge
