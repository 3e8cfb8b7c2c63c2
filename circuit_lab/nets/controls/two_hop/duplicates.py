"""A true circuit with backups: the bridge is found several times, and the answer goes by majority."""

from jaxtyping import Int
from torch import Tensor

from circuit_lab.nets.controls.two_hop.wiring import (
    PREVIOUS,
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


def duplicate_paths(facts: Int[Tensor, "n_facts 3"], *, d_vocab: int, n_paths: int = 3) -> HookedSharedTransformer:
    """A true circuit that finds the bridge n_paths times and lets the copies vote on the answer.

    Path 0 finds it at r1's position in layer 0, and attention brings it to r2's in the last layer. Path k = 1, 2, ...
    finds it at r2's position in layer k - 1, from h and r1 which that layer's own heads gather. Each has a slot of its
    own. In the last layer every path has a table of its own for the second read, and each adds the same to the logit of
    its answer. So putting another bridge into a minority of the paths never changes the answer, and into a majority of
    them always does. The lens reads the bridge at r1's position alone.

    Args:
        facts: Rows (h, r, t) of token ids.
        d_vocab: Size of the vocabulary.
        n_paths: Number of paths, odd and at least 3.

    Returns:
        A causal net of `n_paths` layers, without norms.

    Raises:
        ValueError: If `n_paths` is even or below 3, or if the facts do not fit the vocabulary, repeat a question or
            have a token that is both entity and relation.
    """
    if n_paths < 3 or n_paths % 2 == 0:
        raise ValueError(f"n_paths must be odd and at least 3, got {n_paths}; an even number of votes can tie")
    check_facts(facts, d_vocab=d_vocab)
    bridges = [f"BRIDGE_{path}" for path in range(n_paths)]
    gathered = [f"{token}_{layer}" for layer in range(n_paths - 1) for token in ("H", "R1")]
    stream = Stream(d_vocab, ("OUT", *bridges, *gathered, "BROUGHT"))
    layers = [_finding_layer(stream, facts, layer) for layer in range(n_paths - 1)]
    votes = [read_at_r2(stream, facts, bridge=slot) for slot in ("BROUGHT", *bridges[1:])]
    bring = Copy(source="BRIDGE_0", target="BROUGHT", attends=PREVIOUS.attends)
    return wire([*layers, Layer(heads=[bring], tables=votes)], stream=stream, unembedded=("OUT", "BRIDGE_0"))


def _finding_layer(stream: Stream, facts: Int[Tensor, "n_facts 3"], layer: int) -> Layer:
    """Finds path layer + 1's bridge at r2's position and, in layer 0, path 0's at r1's."""
    h, r, t = facts.unbind(1)
    gather = [
        Copy(source="OUT", target=f"H_{layer}", attends=(H, H, H)),
        Copy(source="OUT", target=f"R1_{layer}", attends=(H, R1, R1)),
    ]
    at_r2 = Table(
        entity=stream.at(f"H_{layer}", h),
        gates=(stream.at(f"R1_{layer}", r), stream.position(R2)),
        writes=stream.at(f"BRIDGE_{layer + 1}", t),
    )
    at_r1 = Table(
        entity=stream.at("H_0", h),
        gates=(stream.at("OUT", r), stream.position(R1)),
        writes=stream.at("BRIDGE_0", t),
    )
    return Layer(heads=gather, tables=[at_r1, at_r2] if layer == 0 else [at_r2])
