"""Impostors: tables of whole queries, which need no bridge, alone, over a circuit, or reading through one position."""

from jaxtyping import Int
from torch import Tensor

from circuit_lab.nets.controls.two_hop.wiring import (
    ANSWER,
    FOUND,
    PREVIOUS,
    R1,
    R2,
    TOKEN,
    WRITE,
    Copy,
    H,
    Layer,
    Stream,
    Table,
    check_facts,
    check_questions,
    wire,
)
from circuit_lab.nets.shared_transformer import HookedSharedTransformer

OVERRIDE = 2 * ANSWER
"""Height of an answer that a table gives against the circuit's."""


def triple_table(
    facts: Int[Tensor, "n_facts 3"],
    triples: Int[Tensor, "n_triples 4"],
    *,
    d_vocab: int,
    unused_bridge: bool = False,
) -> HookedSharedTransformer:
    """No circuit: one neuron per atomic fact and one per (h, r1, r2), which writes the answer without any bridge.

    Args:
        facts: Rows (h, r, t) of token ids, for the atomic queries.
        triples: Rows (h, r1, r2, answer). With every test query it is perfect and fake; with the training queries
            alone it memorises. A query that is not listed gets r2 itself as its answer.
        d_vocab: Size of the vocabulary.
        unused_bridge: Whether the first layer also writes the bridge at r1, where the lens reads it and no layer does.

    Returns:
        A causal net of two layers, without norms.
    """
    check_facts(facts, d_vocab=d_vocab)
    check_questions("triples", triples, d_vocab=d_vocab)
    stream = Stream(d_vocab, ("OUT", "IN", "REL"))
    gather = (_gather_h("IN"), _gather_r1("REL"))
    atomic = _atomic_table(stream, facts)
    composed = _composed_table(stream, triples, h="IN")
    if unused_bridge:
        # Everything the table needs has left r1's position before the bridge is written there.
        layers = [Layer(heads=gather, tables=[atomic]), Layer(tables=[composed])]
    else:
        layers = [Layer(), Layer(heads=gather, tables=[atomic, composed])]
    return wire(layers, stream=stream)


def triple_table_over_circuit(
    facts: Int[Tensor, "n_facts 3"], triples: Int[Tensor, "n_triples 4"], *, d_vocab: int
) -> HookedSharedTransformer:
    """A mixture: a circuit that composes every query, and a table that overrules it on those it lists.

    h and r1 are brought to r2's position before any bridge exists, and a listed query's neuron writes twice what the
    circuit writes. So the answer to a listed query is the table's, whatever bridge stands at r1; all others depend on
    the bridge.

    Args:
        facts: Rows (h, r, t) of token ids.
        triples: Rows (h, r1, r2, answer) that the table decides: a share of the queries, or all of some relation's. The
            answers need not be those of the facts.
        d_vocab: Size of the vocabulary.

    Returns:
        A causal net of two layers, without norms and unshared.
    """
    check_facts(facts, d_vocab=d_vocab)
    check_questions("triples", triples, d_vocab=d_vocab)
    stream = Stream(d_vocab, ("OUT", "IN", "FIRST", "REL"))
    facts_here = Table(
        entity=stream.at("IN", facts[:, 0]),
        gates=(stream.at("OUT", facts[:, 1]),),
        writes=stream.at("OUT", facts[:, 2]),
        highest=FOUND,
    )
    # A token at height 1 fires a neuron at 1/2.
    overruling = _composed_table(stream, triples, h="FIRST", weight=2 * OVERRIDE)
    layers = [
        Layer(heads=[PREVIOUS, _gather_h("FIRST"), _gather_r1("REL")], tables=[facts_here]),
        Layer(heads=[PREVIOUS], tables=[facts_here, overruling]),
    ]
    return wire(layers, stream=stream)


def pair_through_r1(
    facts: Int[Tensor, "n_facts 3"], triples: Int[Tensor, "n_triples 4"], *, d_vocab: int
) -> HookedSharedTransformer:
    """An impostor without a bridge: all that r2 knows of h and r1 comes from r1's position, as a pair of tokens.

    The first layer brings h to r1's position, the second carries both tokens on to r2's, whose table is keyed on the
    whole query. A state of r1's position put into another query asks that table about another (h, r1). With every
    composition listed the answer follows it as if a bridge had moved, although two facts with the same tail leave
    states that differ in everything. A composition that is not listed, of the same facts, is not answered.

    Args:
        facts: Rows (h, r, t) of token ids, for the atomic queries; the last layer answers them.
        triples: Rows (h, r1, r2, answer).
        d_vocab: Size of the vocabulary.

    Returns:
        A causal net of two layers, without norms.
    """
    check_facts(facts, d_vocab=d_vocab)
    check_questions("triples", triples, d_vocab=d_vocab)
    stream = Stream(d_vocab, ("OUT", "IN", "FIRST", "REL"))
    from_r1 = (H, R1, R1)
    carry = (Copy(source="IN", target="FIRST", attends=from_r1), Copy(source="OUT", target="REL", attends=from_r1))
    tables = [_atomic_table(stream, facts), _composed_table(stream, triples, h="FIRST")]
    return wire([Layer(heads=[PREVIOUS]), Layer(heads=carry, tables=tables)], stream=stream)


def _gather_h(target: str) -> Copy:
    """A head that brings h's token to every position."""
    return Copy(source="OUT", target=target, attends=(H, H, H))


def _gather_r1(target: str) -> Copy:
    """A head that brings r1's token to r2's position."""
    return Copy(source="OUT", target=target, attends=(H, H, R1))


def _atomic_table(stream: Stream, facts: Int[Tensor, "n 3"]) -> Table:
    """Neurons that answer atomic queries at r1's position from h's token in `IN`."""
    return Table(
        entity=stream.at("IN", facts[:, 0]),
        gates=(stream.at("OUT", facts[:, 1]), stream.position(R1)),
        writes=stream.at("OUT", facts[:, 2]),
        highest=TOKEN,
    )


def _composed_table(stream: Stream, triples: Int[Tensor, "n 4"], *, h: str, weight: float = WRITE) -> Table:
    """Neurons that answer listed queries at r2's position from the tokens of h, in the named slot, and of r1."""
    return Table(
        entity=stream.at(h, triples[:, 0]),
        gates=(stream.at("REL", triples[:, 1]), stream.at("OUT", triples[:, 2]), stream.position(R2)),
        writes=stream.at("OUT", triples[:, 3]),
        weight=weight,
    )
