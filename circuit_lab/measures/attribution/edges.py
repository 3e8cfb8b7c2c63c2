"""The graph of a pre-norm transformer: who writes to the residual stream, who reads it, and the edges between them.

1. In a pre-norm net the stream is a sum: x = embedding + attention heads' outputs + MLPs' outputs + constants (b_O).
2. *Writers* are the addends: `embed` (token plus position embedding), `head l.h` (z_h W_O[h] of layer l), `mlp l`. The
   attention's output bias is the same in every run and belongs to no writer.
3. *Readers* are what takes the stream as its input: `q l.h`, `k l.h`, `v l.h` of each head, `mlp l`, and `logits`.
4. There is an *edge* from a writer to every reader that reads after it has written, the attention of a layer to the MLP
   of that layer included. It carries the writer's output at a position to the reader at that same position, through the
   stream alone; information changes position only inside a head, from `k` and `v` to its output.
5. With heads together, `attn l` stands for all heads of a layer: as a writer for all of them, as a reader for all their
   q, k and v. Such an edge is the set of its parts.

The names are those of Wang et al. (IOI, arXiv 2211.00593) and Syed et al. (EAP, arXiv 2310.10348), whose input node is
our `embed`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuit_lab.measures.hooked_model import FwdHooks, HookedModel, activations
from circuit_lab.measures.patching.query_pairs import DIRECTIONS, QueryPairs, noise_hooks
from circuit_lab.nets import HookedRecursiveTransformer, HookedSharedTransformer, SharedTransformerConfig

ALL_POSITIONS = "all"
"""Stands for a position's name where all positions are patched at once."""

QKV = ("q", "k", "v")
_EMBEDDING = "blocks.0.hook_resid_pre"

Heads = Literal["separate", "together"]
Positions = Literal["all", "each"]


@dataclass(frozen=True)
class Writer:
    """What adds to the stream.

    Attributes:
        kind: "embed", "head", "mlp", or "attn" for all heads of a layer.
        layer: Effective layer; None for the embedding.
        head: Index of the head; None unless `kind` is "head".
    """

    kind: Literal["embed", "head", "mlp", "attn"]
    layer: int | None = None
    head: int | None = None

    @property
    def label(self) -> str:
        """Its name in tables and figures.

        >>> Writer("embed").label, Writer("head", 1, 0).label, Writer("mlp", 2).label
        ('embed', 'head 1.0', 'mlp 2')
        """
        return _label(self.kind, self.layer, self.head)

    @property
    def written_at(self) -> int:
        """Half layers that have run once it has written: 0 for the embedding."""
        if self.layer is None:
            return 0
        return 2 * self.layer + (2 if self.kind == "mlp" else 1)


@dataclass(frozen=True)
class Reader:
    """What takes the stream as its input.

    Attributes:
        kind: "q", "k" or "v" of a head, "mlp", "logits", or "attn" for q, k and v of all heads of a layer.
        layer: Effective layer; None for the logits.
        head: Index of the head; None unless `kind` is "q", "k" or "v".
    """

    kind: Literal["q", "k", "v", "mlp", "logits", "attn"]
    layer: int | None = None
    head: int | None = None

    @property
    def label(self) -> str:
        """Its name in tables and figures.

        >>> Reader("q", 1, 0).label, Reader("mlp", 2).label, Reader("logits").label
        ('q 1.0', 'mlp 2', 'logits')
        """
        return _label(self.kind, self.layer, self.head)

    def reads_after(self, writer: Writer) -> bool:
        """Whether the writer's output is in the stream that this reader reads."""
        if self.layer is None:
            return True
        return writer.written_at <= 2 * self.layer + (self.kind == "mlp")


def _label(kind: str, layer: int | None, head: int | None) -> str:
    """Kind, then layer and head where there are any."""
    return " ".join([kind, ".".join(str(index) for index in (layer, head) if index is not None)]).strip()


@dataclass(frozen=True)
class Edge:
    """What one writer adds to the input of one reader."""

    writer: Writer
    reader: Reader

    @property
    def label(self) -> str:
        """Its name in tables.

        >>> Edge(Writer("mlp", 0), Reader("v", 1, 2)).label
        'mlp 0 -> v 1.2'
        """
        return f"{self.writer.label} -> {self.reader.label}"

    def parts(self, n_heads: int) -> tuple["Edge", ...]:
        """The edges between single heads that this one stands for: itself unless it names a whole attention."""
        writers, readers = [self.writer], [self.reader]
        if self.writer.kind == "attn":
            writers = [Writer("head", self.writer.layer, head) for head in range(n_heads)]
        if self.reader.kind == "attn":
            readers = [Reader(kind, self.reader.layer, head) for kind in QKV for head in range(n_heads)]
        return tuple(Edge(writer, reader) for reader, writer in product(readers, writers))


def writers_of(cfg: SharedTransformerConfig, *, heads: Heads = "separate") -> tuple[Writer, ...]:
    """Every writer of a net, in the order in which they write."""
    found = [Writer("embed")]
    for layer in range(cfg.n_layers):
        if heads == "together":
            found.append(Writer("attn", layer))
        else:
            found += [Writer("head", layer, head) for head in range(cfg.n_heads)]
        found.append(Writer("mlp", layer))
    return tuple(found)


def readers_of(cfg: SharedTransformerConfig, *, heads: Heads = "separate") -> tuple[Reader, ...]:
    """Every reader of a net, in the order in which they read; within a layer all q, then all k, then all v."""
    found: list[Reader] = []
    for layer in range(cfg.n_layers):
        if heads == "together":
            found.append(Reader("attn", layer))
        else:
            found += [Reader(kind, layer, head) for kind in QKV for head in range(cfg.n_heads)]
        found.append(Reader("mlp", layer))
    return (*found, Reader("logits"))


def all_edges(net: HookedSharedTransformer, *, heads: Heads = "separate") -> tuple[Edge, ...]:
    """Every edge of a net, by reader.

    Args:
        net: A net of ours.
        heads: "separate" for an edge per head and per q, k and v; "together" for one per layer's whole attention.

    Returns:
        The edges.
    """
    return tuple(
        Edge(writer, reader)
        for reader in readers_of(net.cfg, heads=heads)
        for writer in writers_of(net.cfg, heads=heads)
        if reader.reads_after(writer)
    )


def n_writers_before(cfg: SharedTransformerConfig, layer: int) -> int:
    """Writers (heads separate) that have written before a layer runs."""
    return 1 + layer * (cfg.n_heads + 1)


def n_readers_before(cfg: SharedTransformerConfig, layer: int) -> int:
    """Readers (heads separate) of the layers before `layer`."""
    return layer * (len(QKV) * cfg.n_heads + 1)


def why_no_graph(net: HookedModel) -> str | None:
    """Why a model has no edges to patch from outside; None if it has.

    Args:
        net: Any hooked model.

    Returns:
        The reason, a sentence.
    """
    if isinstance(net, HookedRecursiveTransformer):
        return (
            "edges need a stream that is the sum of what the components write, got a recursive transformer: each of "
            "its steps rewrites one of two streams and norms it after every addition; patch whole activations instead"
        )
    if not isinstance(net, HookedSharedTransformer):
        return (
            "edges are patched in nets of ours only, got a TransformerBridge; TransformerLens has for it "
            "transformer_lens.patching.get_act_patch_direct_path and, for attribution, "
            'attribution_patch(..., EdgeAttributionConfig(granularity="edge"))'
        )
    if net.cfg.norm_position == "post":
        return (
            'edges need a pre-norm net, got norm_position = "post": its stream is normed after every addition, so it '
            "is not the sum of what the components write; patch whole activations instead"
        )
    return None


def check_graph(net: HookedModel) -> HookedSharedTransformer:
    """The net, if its stream is a sum whose edges can be patched from outside.

    Args:
        net: Any hooked model.

    Returns:
        The same net.

    Raises:
        ValueError: If it is a TransformerLens bridge, a recursive net or a post-norm net.
    """
    reason = why_no_graph(net)
    if reason is not None:
        raise ValueError(reason)
    assert isinstance(net, HookedSharedTransformer)
    return net


def check_edges(net: HookedSharedTransformer, edges: Sequence[Edge]) -> None:
    """Refuse edges that the net does not have.

    Args:
        net: A net of ours.
        edges: Edges, heads separate or together.

    Raises:
        ValueError: If there are none, or one is not in the net.
    """
    if not edges:
        raise ValueError("there are no edges to patch; leave edges out for all of them")
    writers = {writer for heads in ("separate", "together") for writer in writers_of(net.cfg, heads=heads)}
    readers = {reader for heads in ("separate", "together") for reader in readers_of(net.cfg, heads=heads)}
    for edge in edges:
        if edge.writer not in writers or edge.reader not in readers:
            raise ValueError(
                f"the net has no edge {edge.label!r}: it has layers 0..{net.cfg.n_layers - 1} "
                f"with heads 0..{net.cfg.n_heads - 1}"
            )
        if not edge.reader.reads_after(edge.writer):
            raise ValueError(f"there is no edge {edge.label!r}: {edge.reader.label} reads before it is written")


@dataclass(frozen=True, eq=False)
class RunInput:
    """What one of the two runs of some pairs is given.

    Attributes:
        tokens: Its tokens.
        noise: Added to the embedding; None for none.
    """

    tokens: Tensor
    noise: Tensor | None

    def hooks(self) -> FwdHooks:
        """The hooks that put the noise in."""
        return noise_hooks(self.noise)


def lending_and_receiving(pairs: QueryPairs, direction: str) -> tuple[RunInput, RunInput]:
    """The run that lends activations and the run that receives them.

    Args:
        pairs: Query pairs.
        direction: One of `DIRECTIONS`.

    Returns:
        The lending and the receiving run's input.

    Raises:
        ValueError: If there are no pairs, the direction is unknown, or the two queries of a pair are answered at
            different positions.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if len(pairs) == 0:
        raise ValueError("there are no query pairs to patch between, got 0")
    if not torch.equal(pairs.clean.answer_position, pairs.corrupt.answer_position):
        raise ValueError("clean and corrupt queries must be answered at the same position; some pairs are not")
    clean, corrupt = RunInput(pairs.clean.tokens, None), RunInput(pairs.corrupt.tokens, pairs.noise)
    return (clean, corrupt) if direction == "denoising" else (corrupt, clean)


@dataclass(frozen=True, eq=False)
class StreamRun:
    """A run's stream and the addends it is made of.

    Attributes:
        states: The stream before each layer and, last, before the final norm.
        writers: What each writer (heads separate) wrote, in the order of `writers_of`.
    """

    states: Float[Tensor, "n_states n pos d_model"]
    writers: Float[Tensor, "n_writers n pos d_model"]


@torch.no_grad()
def run_with_writers(net: HookedSharedTransformer, given: RunInput) -> StreamRun:
    """Run the net once and keep the stream with its addends.

    Args:
        net: A pre-norm net of ours.
        given: Tokens and noise of the run.

    Returns:
        The run, on the net's device.
    """
    layers = range(net.cfg.n_layers)
    states = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    states.append(f"blocks.{net.cfg.n_layers - 1}.hook_resid_post")
    seen = activations(net, given.tokens, [*states, *writer_hooks(net)], fwd_hooks=given.hooks())
    return StreamRun(states=torch.stack([seen[name] for name in states]), writers=written(net, seen))


def writer_hooks(net: HookedSharedTransformer) -> list[str]:
    """The hooks that `written` needs."""
    in_layer = ("attn.hook_z", "hook_mlp_out")
    return [_EMBEDDING, *(f"blocks.{layer}.{name}" for layer in range(net.cfg.n_layers) for name in in_layer)]


def written(net: HookedSharedTransformer, seen: Mapping[str, Tensor]) -> Float[Tensor, "n_writers n pos d_model"]:
    """What each writer (heads separate) wrote, in the order of `writers_of`, from the activations at `writer_hooks`.

    It is linear in the activations: of the difference of two runs it gives the difference of their writers.
    """
    writers = [seen[_EMBEDDING]]
    for layer in range(net.cfg.n_layers):
        writers += [
            *head_outputs(net, layer, seen[f"blocks.{layer}.attn.hook_z"]),
            seen[f"blocks.{layer}.hook_mlp_out"],
        ]
    return torch.stack(writers)


def head_outputs(
    net: HookedSharedTransformer, layer: int, z: Float[Tensor, "n pos n_heads d_head"]
) -> Float[Tensor, "n_heads n pos d_model"]:
    """What each head of a layer adds to the stream, without the bias b_O."""
    return torch.einsum("nphe,hed->hnpd", z, net.blocks[layer].attn.W_O)
