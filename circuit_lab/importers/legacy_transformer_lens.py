"""Legacy TransformerLens: what `HookedTransformer.state_dict()` of versions 1 to 3 gives.

Names and shapes are ours (`embed.W_E [d_vocab, d_model]`, `blocks.0.attn.W_Q [n_heads, d_model, d_head]`, ...), with a
copy of every layer's weights, and two buffers a layer: `attn.mask`, the causal mask even of a bidirectional net, and
`attn.IGNORE`, what masked scores are set to (transformer_lens/components/abstract_attention.py of TransformerLens 2).

A second copy of an embedding, by any name that ends in `W_E` or `W_pos` (`embed.embed.W_E` is the name in
HookedEncoder, whose weights some codes start from), must equal the first, or takes its place.
"""

import torch
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Imported, Importer, Options, Source
from circuit_lab.importers.ledger import Ledger
from circuit_lab.importers.state_dicts import has_axes, peek, read_state_dict, same
from circuit_lab.importers.transformer_settings import (
    act_fn_of,
    attention_of,
    eps_of,
    find_settings,
    norm_of,
    sort_settings,
)
from circuit_lab.importers.transformer_weights import (
    block_axes,
    check_sizes,
    common_size,
    count_layers,
    is_bias,
    make_net,
    norm_parts,
    outer_axes,
    size_beside,
    take_all,
    unit_norms,
)

LAYOUT = "legacy TransformerLens"
MASKED_SCORE = -1e4
"""A masked score of at most this has no weight in a softmax: exp of it is 0 beside any score of a sane size."""
_EMBEDDINGS = {"W_E": "embed.W_E", "W_pos": "pos_embed.W_pos"}
_NORMS = {"ln1", "ln2", "ln_final"}
_UNSUPPORTED = {
    "rotary_sin": "rotary position embeddings",
    "rotary_cos": "rotary position embeddings",
    "_W_K": "grouped-query attention, where heads share keys and values",
    "W_gate": "a gated MLP",
    "W_token_type": "token types (an encoder such as BERT)",
    "experts": "a mixture of experts",
}
"""Parts of names that only nets have which a shared transformer cannot be."""


def recognises(source: Source) -> bool:
    """Whether the file has an embedding `W_E`, and per-head queries and outputs in TransformerLens's shape.

    Args:
        source: What was read.

    Returns:
        Whether it is of this dialect.
    """
    tensors = peek(source)
    has_embedding = any(name.rpartition(".")[2] == "W_E" for name in tensors)
    return has_embedding and has_axes(tensors, {"blocks.0.attn.W_Q": 3, "blocks.0.attn.W_O": 3})


def read(source: Source, options: Options) -> Imported:
    """Make the net.

    Args:
        source: What was read.
        options: What the caller knows.

    Returns:
        The net, and what was inferred and ignored.

    What is not understood in the file or its settings is an InputError.
    """
    state = read_state_dict(source, options)
    ledger = Ledger(state.tensors, place=state.place, layout=LAYOUT)
    settings = sort_settings(find_settings(source, options, state.settings, ledger), ledger)
    _refuse_other_architectures(ledger)
    _resolve_aliases(ledger)
    sizes = _sizes(ledger)
    settings.agree(sizes)
    parts = {name.rpartition(".")[2] for name in ledger.tensors if _NORMS & set(name.split("."))}
    norm, has_own = norm_of(settings, ledger, has_weight="w" in parts, has_bias="b" in parts)
    direction = _masked_direction(ledger, sizes)
    weights = _take_weights(ledger, sizes, norm_parts(norm, has_own=has_own))
    if not has_own:
        weights |= unit_norms(weights, sizes["n_layers"], norm_parts(norm))
    computation = {
        "normalization_type": norm,
        "act_fn": act_fn_of(settings, ledger, default="relu" if norm is None else None),
        "attention_dir": attention_of(settings, ledger, seen=direction),
        "eps": eps_of(settings, ledger, normed=norm is not None),
    }
    shapes = {name: size for name, size in sizes.items() if name != "n_layers"}
    return state.imported(make_net(ledger, weights, {**shapes, **computation}), ledger)


def _refuse_other_architectures(ledger: Ledger) -> None:
    for name in sorted(ledger.tensors):
        for part, what in _UNSUPPORTED.items():
            if part in name.split("."):
                raise InputError(f"{ledger.place}: {name} belongs to {what}, which a shared transformer does not have")


def _resolve_aliases(ledger: Ledger) -> None:
    """Second copies of the embeddings are ignored where they are equal, and used where they are the only ones."""
    for last, name in _EMBEDDINGS.items():
        aliases = sorted(other for other in ledger.tensors if other.rpartition(".")[2] == last and other != name)
        if aliases and name not in ledger:
            ledger.infer(f"{name} = {aliases[0]}", "the file has it by that name only")
            ledger.tensors[name] = ledger.tensors.pop(aliases.pop(0))
        for alias in aliases:
            if not same(ledger.tensors[alias], ledger.tensors[name]):
                raise InputError(
                    f"{ledger.place}: {alias} differs from {name}, and only one of them can be the embedding; "
                    "save the state dict without the other"
                )
        ledger.ignore(aliases, f"a copy of {name}")


def _sizes(ledger: Ledger) -> dict[str, int]:
    """Every size, read off the shapes: the others stand beside d_model."""
    n_layers = count_layers(ledger)
    position, query = "pos_embed.W_pos", "blocks.0.attn.W_Q"
    d_model = common_size(ledger, [(position, 2, 1), ("blocks.0.attn.W_O", 3, 2), ("unembed.W_U", 2, 0)])
    sizes = {
        "n_layers": n_layers,
        "n_ctx": size_beside(ledger, position, n_axes=2, free=0, known=(1, d_model)),
        "d_model": d_model,
        "d_vocab": size_beside(ledger, "embed.W_E", n_axes=2, free=0, known=(1, d_model)),
        "d_head": size_beside(ledger, query, n_axes=3, free=2, known=(1, d_model)),
        "n_heads": ledger.shape(query)[0],
        "d_mlp": size_beside(ledger, "blocks.0.mlp.W_in", n_axes=2, free=1, known=(0, d_model)),
        "d_vocab_out": size_beside(ledger, "unembed.W_U", n_axes=2, free=1, known=(0, d_model)),
    }
    check_sizes(ledger, sizes)
    words = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    ledger.infer(words, "shapes of pos_embed.W_pos, embed.W_E, blocks.0 and unembed.W_U")
    return sizes


def _masked_direction(ledger: Ledger, sizes: dict[str, int]) -> str | None:
    """Check masks and IGNORE; "bidirectional" if the masks hide nothing, None if they are causal, as all masks are."""
    positions = ("n_ctx", sizes["n_ctx"])
    names = [f"blocks.{layer}.attn.mask" for layer in range(sizes["n_layers"])]
    masks = {name: ledger.take(name, positions, positions).bool() for name in names if name in ledger}
    fills = [f"blocks.{layer}.attn.IGNORE" for layer in range(sizes["n_layers"])]
    for name in (name for name in fills if name in ledger):
        fill = ledger.take(name).double()
        if not bool(fill <= MASKED_SCORE):
            raise InputError(f"{ledger.place}: {name} must be -inf, or at most {MASKED_SCORE}, got {fill.item()}")
    ledger.ignore(
        [*masks, *(name for name in fills if name in ledger)], "buffers, rebuilt from attention_dir and n_ctx"
    )
    kinds = {name: _kind_of_mask(ledger, name, mask) for name, mask in masks.items()}
    if len(set(kinds.values())) > 1:
        raise InputError(
            f"{ledger.place}: the attention masks of the layers differ, so the net has no one attention_dir"
        )
    # One position hides nothing either way, and a causal mask stands in the file of a bidirectional net too.
    return "bidirectional" if "bidirectional" in kinds.values() else None


def _kind_of_mask(ledger: Ledger, name: str, mask: Tensor) -> str:
    """What a mask, True where a query (row) may look at a key (column), lets through."""
    if torch.equal(mask, torch.ones_like(mask).tril()):
        return "causal"
    if bool(mask.all()):
        return "bidirectional"
    raise InputError(
        f"{ledger.place}: {name} is neither causal (True on and below the diagonal) nor all True; "
        "windowed attention is not something a shared transformer does"
    )


def _take_weights(ledger: Ledger, sizes: dict[str, int], norms: tuple[str, ...]) -> dict[str, Tensor]:
    """Every weight, under its own name; biases where they are there."""
    axes = outer_axes(sizes, norms)
    for layer in range(sizes["n_layers"]):
        axes |= {f"blocks.{layer}.{name}": block for name, block in block_axes(sizes, norms).items()}
    return take_all(ledger, axes, optional=is_bias)


LEGACY_TRANSFORMER_LENS = Importer(
    name="transformer-lens-legacy",
    recognises=recognises,
    read=read,
)
