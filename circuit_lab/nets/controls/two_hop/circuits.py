"""True circuits of the textbook kind: the bridge is found at r1's position and read there one layer later."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuit_lab.nets.controls.perturb import in_basis, random_orthogonal
from circuit_lab.nets.controls.two_hop.wiring import (
    FOUND,
    PREVIOUS,
    R1,
    Copy,
    Layer,
    Stream,
    Table,
    check_facts,
    check_questions,
    read_at_r2,
    wire,
)
from circuit_lab.nets.shared_transformer import HookedSharedTransformer


def fact_table_read_twice(
    facts: Int[Tensor, "n_facts 3"],
    *,
    d_vocab: int,
    first_read: Int[Tensor, "n_first 3"] | None = None,
    second_read: Int[Tensor, "n_second 3"] | None = None,
    shared: bool = True,
) -> HookedSharedTransformer:
    """A true circuit: one fact table, read at r1 for the bridge and, one layer later, at r2 for the answer.

    The state of r1's position after the first layer holds the bridge, and the last layer reads nothing else there. All
    facts are answered as atomic queries: those that `first_read` lacks by the last layer, when r2 has read already.

    Args:
        facts: Rows (h, r, t) of token ids.
        d_vocab: Size of the vocabulary.
        first_read: The facts that hand on a bridge, all of them by default. With the ID facts alone, the net fails the
            first hop of OOD facts.
        second_read: The facts that the second layer holds, all by default. With the ID facts alone, the net fails the
            second hop of OOD facts; with both ID, it composes ID facts only.
        shared: Whether both layers are one block. False gives a standard transformer with two equal tables. Layers
            whose tables differ are never shared.

    Returns:
        A causal net of two layers, without norms.
    """
    check_facts(facts, d_vocab=d_vocab)
    stream = Stream(d_vocab, ("OUT", "IN", "REL"))  # REL stays empty: the stream is that of `triple_table`
    whole = Layer(heads=[PREVIOUS], tables=[_fact_table(stream, facts)])
    if first_read is None and second_read is None:
        return wire([whole], stream=stream, layer_map=(0, 0)) if shared else wire([whole, whole], stream=stream)
    first = facts if first_read is None else first_read
    second = facts if second_read is None else second_read
    known_early = _rows_among("first_read", first, facts=facts, d_vocab=d_vocab)
    known_late = _rows_among("second_read", second, facts=facts, d_vocab=d_vocab)
    atomic_alone = _fact_table(stream, facts[~(known_early | known_late)], gates=(stream.position(R1),))
    return wire(
        [
            Layer(heads=[PREVIOUS], tables=[_fact_table(stream, first)]),
            Layer(heads=[PREVIOUS], tables=[_fact_table(stream, second), atomic_alone]),
        ],
        stream=stream,
    )


def hidden_bridge(
    facts: Int[Tensor, "n_facts 3"], *, d_vocab: int, generator: torch.Generator
) -> HookedSharedTransformer:
    """A true circuit that the logit lens cannot see: the bridge at r1 is written in a rotated, unembeddable basis.

    Every entity has a direction of its own in a part of the stream that the unembedding does not read; these directions
    are orthogonal and drawn at random. The last layer reads them at r2 and, for atomic queries, turns them into tokens
    at r1's position. Before the last layer the lens reads r1 itself there, whatever the bridge.

    Args:
        facts: Rows (h, r, t) of token ids.
        d_vocab: Size of the vocabulary.
        generator: Draws the basis.

    Returns:
        A causal net of two layers, without norms.
    """
    check_facts(facts, d_vocab=d_vocab)
    stream = Stream(d_vocab, ("OUT", "IN", "HIDDEN", "BRIDGE"))
    h, r, t = facts.unbind(1)
    first = Table(
        entity=stream.at("IN", h),
        gates=(stream.at("OUT", r),),
        writes=stream.at("HIDDEN", t),
    )
    tails = t.unique()
    shown_late = Table(
        entity=stream.at("HIDDEN", tails),
        gates=(stream.position(R1),),
        writes=stream.at("OUT", tails),
        highest=FOUND,
    )
    net = wire(
        [
            Layer(heads=[PREVIOUS], tables=[first]),
            Layer(
                heads=[Copy(source="HIDDEN", target="BRIDGE", attends=PREVIOUS.attends)],
                tables=[read_at_r2(stream, facts, bridge="BRIDGE"), shown_late],
            ),
        ],
        stream=stream,
    )
    basis = torch.eye(stream.d_model, dtype=torch.float64)
    hidden = stream.span("HIDDEN")
    basis[hidden, hidden] = random_orthogonal(d_vocab, generator=generator)
    return in_basis(net, basis)


def _fact_table(stream: Stream, facts: Int[Tensor, "n 3"], *, gates: tuple[int, ...] = ()) -> Table:
    """Neurons that find a fact's tail from the entity brought here and the relation that stands here."""
    return Table(
        entity=stream.at("IN", facts[:, 0]),
        gates=(stream.at("OUT", facts[:, 1]), *gates),
        writes=stream.at("OUT", facts[:, 2]),
        highest=FOUND,
    )


def _rows_among(
    name: str, rows: Int[Tensor, "n 3"], *, facts: Int[Tensor, "n_facts 3"], d_vocab: int
) -> Bool[Tensor, " n_facts"]:
    """Which facts the rows are; refuses rows that are none."""
    check_questions(name, rows, d_vocab=d_vocab)
    place = torch.tensor([d_vocab**2, d_vocab, 1])
    keys, known = (rows * place).sum(1), (facts * place).sum(1)
    strange = rows[~torch.isin(keys, known)]
    if len(strange) > 0:
        raise ValueError(
            f"{name} must hold rows of facts, got {tuple(strange[0].tolist())}, which is none; add it to facts as well"
        )
    return torch.isin(known, keys)
