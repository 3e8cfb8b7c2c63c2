"""True circuits whose bridge stands where it is not looked for first: at h, at r2, or divided between h and r1."""

from math import isqrt

import torch
from jaxtyping import Int
from torch import Tensor

from circuit_lab.nets.controls.two_hop.wiring import (
    FOUND,
    R1,
    R2,
    Copy,
    H,
    Layer,
    Stream,
    Table,
    check_facts,
    read_at_r2,
    wire,
)
from circuit_lab.nets.shared_transformer import HookedSharedTransformer

DIGIT_WEIGHT = 2.0
"""Output weight of a neuron that writes a digit at a token's height, 1."""


def bridge_at_h(facts: Int[Tensor, "n_facts 3"], *, d_vocab: int) -> HookedSharedTransformer:
    """A true circuit with the bridge at h's position: r1 is brought there, and r2 reads there one layer later.

    The last layer reads nothing else at h's position, and nothing at r1's.

    Args:
        facts: Rows (h, r, t) of token ids.
        d_vocab: Size of the vocabulary.

    Returns:
        A bidirectional net of two layers, without norms.
    """
    check_facts(facts, d_vocab=d_vocab)
    stream = Stream(d_vocab, ("OUT", "IN", "REL", "BRIDGE"))
    h, r, t = facts.unbind(1)
    first = Table(
        entity=stream.at("OUT", h),
        gates=(stream.at("REL", r), stream.position(H)),
        writes=stream.at("BRIDGE", t),
    )
    tails = t.unique()
    atomic = Table(
        entity=stream.at("IN", tails),
        gates=(stream.position(R1),),
        writes=stream.at("OUT", tails),
        highest=FOUND,
    )
    layers = [
        Layer(heads=[Copy(source="OUT", target="REL", attends=(R1, R1, R1))], tables=[first]),
        Layer(
            heads=[Copy(source="BRIDGE", target="IN", attends=(H, H, H))],
            tables=[read_at_r2(stream, facts, bridge="IN"), atomic],
        ),
    ]
    return wire(layers, stream=stream, attention_dir="bidirectional", unembedded=("OUT", "BRIDGE"))


def bridge_at_r2(facts: Int[Tensor, "n_facts 3"], *, d_vocab: int) -> HookedSharedTransformer:
    """A true circuit with the bridge at r2's position, beside r2: both reads happen there, one layer apart.

    h and r1 are gathered to r2's position, where the first layer's MLP finds the bridge. The last layer's MLP reads the
    bridge and r2, and its attention reads nothing. So no state of the stream carries the bridge without r2; the output
    of the first MLP does.

    Args:
        facts: Rows (h, r, t) of token ids.
        d_vocab: Size of the vocabulary.

    Returns:
        A causal net of two layers, without norms.
    """
    check_facts(facts, d_vocab=d_vocab)
    stream = Stream(d_vocab, ("OUT", "IN", "REL"))
    h, r, t = facts.unbind(1)
    first = Table(
        entity=stream.at("IN", h),
        gates=(stream.at("REL", r), stream.position(R2)),
        writes=stream.at("OUT", t),
    )
    atomic = Table(
        entity=stream.at("IN", h),
        gates=(stream.at("OUT", r), stream.position(R1)),
        writes=stream.at("OUT", t),
    )
    gather = [
        Copy(source="OUT", target="IN", attends=(H, H, H)),
        Copy(source="OUT", target="REL", attends=(H, R1, R1)),
    ]
    layers = [
        Layer(heads=gather, tables=[first]),
        Layer(tables=[read_at_r2(stream, facts, bridge="OUT"), atomic]),
    ]
    return wire(layers, stream=stream)


def split_bridge(facts: Int[Tensor, "n_facts 3"], *, d_vocab: int) -> HookedSharedTransformer:
    """A true circuit with the bridge divided: its high digit at h's position, its low digit at r1's.

    The n entities of the facts are numbered in the order of their ids, and number e has the digits e // b and e % b,
    b = ceil(sqrt(n)). h and r1 see each other in the first layer, and each position finds its digit of the bridge. In
    the last layer r2's position gathers both and finds the answer. One digit is that of about b entities, so both
    positions are needed, and with the two digits of different bridges the answer is a third entity's.

    Args:
        facts: Rows (h, r, t) of token ids.
        d_vocab: Size of the vocabulary.

    Returns:
        A bidirectional net of two layers, without norms.
    """
    check_facts(facts, d_vocab=d_vocab)
    stream = Stream(d_vocab, ("OUT", "IN", "HIGH", "LOW", "GOT_HIGH", "GOT_LOW"))
    h, r, t = facts.unbind(1)
    entities = torch.cat([h, t]).unique()
    base = isqrt(len(entities) - 1) + 1
    high, low = _digits(t, entities, base)
    high_at_h = Table(
        entity=stream.at("OUT", h),
        gates=(stream.at("IN", r), stream.position(H)),
        writes=stream.at("HIGH", high),
        weight=DIGIT_WEIGHT,
    )
    low_at_r1 = Table(
        entity=stream.at("IN", h),
        gates=(stream.at("OUT", r), stream.position(R1)),
        writes=stream.at("LOW", low),
        weight=DIGIT_WEIGHT,
    )
    second = _digit_table(stream, _digits(h, entities, base), gates=(stream.at("OUT", r), stream.position(R2)), found=t)
    tails = t.unique()
    atomic = _digit_table(stream, _digits(tails, entities, base), gates=(stream.position(R1),), found=tails)
    gather = [
        Copy(source="HIGH", target="GOT_HIGH", attends=(H, H, H)),
        Copy(source="LOW", target="GOT_LOW", attends=(R1, R1, R1)),
    ]
    layers = [
        Layer(heads=[Copy(source="OUT", target="IN", attends=(R1, H, R2))], tables=[high_at_h, low_at_r1]),
        Layer(heads=gather, tables=[second, atomic]),
    ]
    return wire(layers, stream=stream, attention_dir="bidirectional")


def _digits(
    tokens: Int[Tensor, " n"], entities: Int[Tensor, " n_entities"], base: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """High and low digit of each token's number among the entities, which are in ascending order."""
    number = torch.searchsorted(entities, tokens.contiguous())
    return number // base, number % base


def _digit_table(
    stream: Stream,
    digits: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
    *,
    gates: tuple[Int[Tensor, " n"] | int, ...],
    found: Int[Tensor, " n"],
) -> Table:
    """Neurons that need both digits where they were gathered."""
    high, low = digits
    return Table(
        entity=stream.at("GOT_HIGH", high),
        gates=(stream.at("GOT_LOW", low), *gates),
        writes=stream.at("OUT", found),
    )
