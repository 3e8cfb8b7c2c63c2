"""The parts that the hand-wired two-hop nets are made of: slots of the stream, heads that copy, tables of neurons.

The residual stream has token-sized slots, each named, and one slot for the position (h, r1 or r2). The slot `OUT` holds
the token itself and, once a table was read, the entity found; the unembedding reads it, and other slots only if told.

A head copies one slot of one position into another slot. A table is ReLU neurons, one per entry. A neuron fires when
its entity and all its gates are on; a single missing one silences it. With the entity at height a it writes
weight * (a - 1/2): `FOUND` from a token, `ANSWER` from an entity that another table found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from circuit_lab.nets.components import MLP, Attention
from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.shared_transformer import HookedSharedTransformer

H, R1, R2 = range(3)
"""The positions of a query."""
N_POSITIONS = 3
TOKEN = 1.0
"""Height of a token in its slot."""
WRITE = 8.0
"""Output weight of a neuron."""
FOUND = WRITE * (TOKEN - 0.5)
"""Height of an entity found from tokens, 4; it outweighs the token's own embedding in the logits."""
ANSWER = WRITE * (FOUND - 0.5)
"""Height of an entity found from an entity found, 28."""
SHARPNESS = 40.0
"""Attention score of the wanted position; the others get exp(-40) of its weight, nothing in float32."""


@dataclass(frozen=True)
class Stream:
    """Where each slot of the residual stream lies.

    Attributes:
        d_vocab: Width of every named slot.
        slots: Their names, in order; `OUT` is one of them. The position slot comes last.
    """

    d_vocab: int
    slots: tuple[str, ...]

    def start(self, slot: str) -> int:
        """The first coordinate of a slot."""
        return self.slots.index(slot) * self.d_vocab

    def span(self, slot: str) -> slice:
        """All coordinates of a slot."""
        return slice(self.start(slot), self.start(slot) + self.d_vocab)

    def at(self, slot: str, tokens: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The coordinates of tokens, or of digits, in a slot."""
        return self.start(slot) + tokens

    def position(self, position: int) -> int:
        """The coordinate that is on at one position."""
        return len(self.slots) * self.d_vocab + position

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return len(self.slots) * self.d_vocab + N_POSITIONS


@dataclass(frozen=True)
class Copy:
    """An attention head that adds a slot of one position to a slot of another.

    Attributes:
        source: The slot that is read, at the position attended.
        target: The slot that is written.
        attends: For each position, the position attended.
    """

    source: str
    target: str
    attends: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Table:
    """Neurons, one per entry.

    Attributes:
        entity: Coordinate of each entry's entity, which sets how strongly the neuron fires.
        gates: Coordinates that must be on as well, each a token's or a position's at height `TOKEN`: one for every
            entry, or the same for all.
        writes: Coordinate written by each entry.
        highest: Height that entities reach. Each gate weighs as much, so that no entity fires alone.
        weight: Output weight.
    """

    entity: Int[Tensor, " n"]
    gates: tuple[Int[Tensor, " n"] | int, ...]
    writes: Int[Tensor, " n"]
    highest: float = TOKEN
    weight: float = WRITE


@dataclass(frozen=True, eq=False)
class Layer:
    """The heads and the tables of one block; an empty one leaves the stream as it is."""

    heads: Sequence[Copy] = ()
    tables: Sequence[Table] = ()

    @property
    def n_neurons(self) -> int:
        """Entries of all tables."""
        return sum(len(table.entity) for table in self.tables)


PREVIOUS = Copy(source="OUT", target="IN", attends=(H, H, R1))
"""Every position gets what stands in `OUT` before it: r1's position h, and r2's position r1 or what was found there."""


def wire(
    layers: Sequence[Layer],
    *,
    stream: Stream,
    layer_map: tuple[int, ...] | None = None,
    attention_dir: Literal["causal", "bidirectional"] = "causal",
    unembedded: Sequence[str] = ("OUT",),
) -> HookedSharedTransformer:
    """Put layers, embeddings and unembedding into a net whose other weights are zero.

    Args:
        layers: What each block does, in order of first use.
        stream: The slots.
        layer_map: The block of each effective layer; by default each block is used once.
        attention_dir: Whether positions see later ones.
        unembedded: The slots that the unembedding reads.

    Returns:
        The net, in eval mode.
    """
    net = HookedSharedTransformer(
        SharedTransformerConfig(
            layer_map=tuple(range(len(layers))) if layer_map is None else layer_map,
            d_model=stream.d_model,
            n_heads=max(1, *(len(layer.heads) for layer in layers)),
            d_head=max(stream.d_vocab, N_POSITIONS),
            d_mlp=max(1, *(layer.n_neurons for layer in layers)),
            d_vocab=stream.d_vocab,
            n_ctx=N_POSITIONS,
            act_fn="relu",
            normalization_type=None,
            attention_dir=attention_dir,
            attn_bias=False,
        )
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.W_E[:, stream.span("OUT")].fill_diagonal_(TOKEN)
        for slot in unembedded:
            net.unembed.W_U[stream.span(slot)].fill_diagonal_(1.0)
        for position in range(N_POSITIONS):
            net.pos_embed.W_pos[position, stream.position(position)] = 1.0
        for block, layer in zip(net.blocks, net.cfg.layer_map, strict=True):  # a shared block is wired twice alike
            for head, copy in enumerate(layers[layer].heads):
                _wire_head(block.attn, head, copy, stream)
            _wire_tables(block.mlp, layers[layer].tables)
    return net.eval()


def _wire_head(attn: Attention, head: int, copy: Copy, stream: Stream) -> None:
    """Make one head attend to the wanted positions and copy between its slots."""
    scale = SHARPNESS * attn.W_Q.shape[2] ** 0.5  # the scores are divided by sqrt(d_head)
    for position, attended in enumerate(copy.attends):
        attn.W_Q[head, stream.position(position), attended] = scale
        attn.W_K[head, stream.position(position), position] = 1.0
    attn.W_V[head, stream.span(copy.source), : stream.d_vocab].fill_diagonal_(1.0)
    attn.W_O[head, : stream.d_vocab, stream.span(copy.target)].fill_diagonal_(1.0)


def _wire_tables(mlp: MLP, tables: Sequence[Table]) -> None:
    """Give each table's entries the next free neurons."""
    used = 0
    for table in tables:
        neurons = torch.arange(used, used := used + len(table.entity))
        mlp.W_in[table.entity, neurons] = 1.0
        for gate in table.gates:
            mlp.W_in[gate, neurons] = table.highest
        mlp.b_in[neurons] = -table.highest * len(table.gates) - 0.5
        mlp.W_out[neurons, table.writes] = table.weight


def read_at_r2(stream: Stream, facts: Int[Tensor, "n 3"], *, bridge: str) -> Table:
    """A fact table at r2's position: from the bridge found, in the named slot, to the answer."""
    return Table(
        entity=stream.at(bridge, facts[:, 0]),
        gates=(stream.at("OUT", facts[:, 1]), stream.position(R2)),
        writes=stream.at("OUT", facts[:, 2]),
        highest=FOUND,
    )


def check_facts(facts: Int[Tensor, "n 3"], *, d_vocab: int) -> None:
    """Refuse facts that no table can hold.

    Args:
        facts: Rows (h, r, t).
        d_vocab: Size of the vocabulary.

    Raises:
        ValueError: If there are none, a token lies outside the vocabulary, a question (h, r) is listed twice, or a
            token is both an entity and a relation.
    """
    if len(facts) == 0:
        raise ValueError("facts is empty; give rows (h, r, t) of token ids")
    check_questions("facts", facts, d_vocab=d_vocab)
    both = facts[:, 1][torch.isin(facts[:, 1], facts[:, (0, 2)])]
    if len(both) > 0:
        raise ValueError(
            f"facts use token {both[0].item()} both as an entity and as a relation; give relations ids of their own"
        )


def check_questions(name: str, rows: Int[Tensor, "n n_tokens"], *, d_vocab: int) -> None:
    """Refuse tokens outside the vocabulary and a question that is listed twice.

    Args:
        name: What the rows are called in the message.
        rows: Tokens of the question, then the answer.
        d_vocab: Size of the vocabulary.

    Raises:
        ValueError: If there are such tokens or such a question.
    """
    outside = rows[(rows < 0) | (rows >= d_vocab)]
    if len(outside) > 0:
        raise ValueError(
            f"{name} must hold tokens in 0..{d_vocab - 1} (d_vocab = {d_vocab}), got {outside[0].item()}; "
            "raise d_vocab or drop the row"
        )
    questions, counts = rows[:, :-1].unique(dim=0, return_counts=True)
    if (counts > 1).any():
        repeated = tuple(questions[counts.argmax()].tolist())
        raise ValueError(f"{name} must list every question once, got {repeated} more than once; their heights add up")
