"""The original grokking code of Nanda et al. (arXiv 2301.05217), and those that started from it.

A dict whose `model` entry holds the weights, turned against TransformerLens's in most places (transformers.py of
github.com/mechanistic-interpretability-grokking/progress-measures-paper):

1. `embed.W_E [d_model, d_vocab]`; `pos_embed.W_pos [n_ctx, d_model]`; `unembed.W_U [d_model, d_vocab]`.
2. `W_K`, `W_Q`, `W_V [n_heads, d_head, d_model]`; scores are q . k / sqrt(d_head), causal.
3. `W_O [d_model, n_heads * d_head]`, the heads one after another along its columns.
4. `mlp.W_in [d_mlp, d_model]`, `b_in`, `W_out [d_model, d_mlp]`, `b_out`; ReLU. No norms, no other biases.
5. The last token is "=", and loss and accuracy are over the logits before it, so our net has d_vocab - 1 outputs.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Imported, Importer, Options, Source
from circuit_lab.importers.ledger import Ledger, first_few
from circuit_lab.importers.state_dicts import has_axes, peek, read_state_dict
from circuit_lab.importers.transformer_settings import Settings, check_scalars, find_settings
from circuit_lab.importers.transformer_weights import (
    Axes,
    check_sizes,
    common_size,
    count_layers,
    make_net,
    size_beside,
    take_all,
)

LAYOUT = "original grokking"
ACTIVATIONS = {"ReLU": "relu", "GeLU": "gelu"}
SIZES = {
    "p": "d_vocab_out",
    "d_model": "d_model",
    "d_vocab": "d_vocab",
    "n_ctx": "n_ctx",
    "d_mlp": "d_mlp",
    "num_heads": "n_heads",
    "num_layers": "n_layers",
}
"""Our name of each size in that code's `Config`."""
_HARMLESS = """
    batch_style device fn_name frac_train lr num_epochs save_every save_models seed stopping_thresh
    take_metrics_every_n_epochs use_ln weight_decay
"""
HARMLESS = frozenset(_HARMLESS.split())
"""The rest of that `Config`: about training; `use_ln` too, for the code applies no norm whatever it says."""


def recognises(source: Source) -> bool:
    """Whether the file has an embedding `W_E`, per-head queries, and outputs of all heads in one matrix.

    Args:
        source: What was read.

    Returns:
        Whether it is of this dialect.
    """
    tensors = peek(source)
    return has_axes(tensors, {"embed.W_E": 2, "blocks.0.attn.W_Q": 3, "blocks.0.attn.W_O": 2})


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
    settings = _settings(find_settings(source, options, state.settings, ledger), ledger)
    sizes = _sizes(ledger)
    outputs = _n_outputs(settings, sizes)
    settings.agree({name: size for name, size in sizes.items() if name != "d_vocab_out"})
    _check_masks(ledger, sizes)
    axes = _axes(sizes)
    taken = take_all(ledger, axes, optional=lambda _: False)
    weights = {name: _turned(name, weight, sizes["n_heads"]) for name, weight in taken.items()}
    if outputs < sizes["d_vocab_out"]:
        weights["unembed.W_U"] = weights["unembed.W_U"][:, :outputs]
        n_last = sizes["d_vocab_out"] - outputs
        ledger.ignored.append(f"the last {n_last} logit(s): that code's loss is over the first {outputs} only")
    shapes = {name: size for name, size in sizes.items() if name != "n_layers"} | {"d_vocab_out": outputs}
    act_fn = settings.values.get("act_fn", "relu")
    if "act_fn" not in settings.values:
        ledger.infer("act_fn = relu", "that code's default")
    ledger.infer("attention_dir = causal, no norms", "that code has nothing else")
    computation = {"normalization_type": None, "act_fn": act_fn, "attention_dir": "causal"}
    return state.imported(make_net(ledger, weights, {**shapes, **computation}), ledger)


def _settings(found: tuple[str, Mapping[str, Any]] | None, ledger: Ledger) -> Settings:
    """That code's settings, in our names."""
    if found is None:
        return Settings("the config (there is none)", {})
    place, values = found
    known = {*SIZES, *HARMLESS, "act_type"}
    for name in sorted(values.keys() - known):
        near = get_close_matches(name[:100], known, n=1)
        hint = f"; the nearest is {near[0]}" if near else ""
        raise InputError(f"{place}: {name[:100]!r} is no setting of the {LAYOUT} code{hint}")
    check_scalars(place, values, (*SIZES, "act_type"))
    ours = {SIZES[name]: value for name, value in values.items() if name in SIZES}
    if "act_type" in values:
        if values["act_type"] not in ("ReLU", "GeLU"):
            raise InputError(f"{place}: act_type must be ReLU or GeLU, got {str(values['act_type'])[:80]!r}")
        ours["act_fn"] = ACTIVATIONS[values["act_type"]]
    harmless = sorted(values.keys() & HARMLESS)
    if harmless:
        ledger.ignored.append(f"settings {first_few(harmless)}: they do not change the logits")
    return Settings(place, ours)


def _sizes(ledger: Ledger) -> dict[str, int]:
    """Every size, read off the shapes."""
    n_layers = count_layers(ledger)
    position, query = "pos_embed.W_pos", "blocks.0.attn.W_Q"
    d_model = common_size(ledger, [(position, 2, 1), (query, 3, 2), ("unembed.W_U", 2, 0)])
    sizes = {
        "n_layers": n_layers,
        "n_ctx": size_beside(ledger, position, n_axes=2, free=0, known=(1, d_model)),
        "d_model": d_model,
        "d_vocab": size_beside(ledger, "embed.W_E", n_axes=2, free=1, known=(0, d_model)),
        "d_head": size_beside(ledger, query, n_axes=3, free=1, known=(2, d_model)),
        "n_heads": ledger.shape(query)[0],
        "d_mlp": size_beside(ledger, "blocks.0.mlp.W_in", n_axes=2, free=0, known=(1, d_model)),
        "d_vocab_out": size_beside(ledger, "unembed.W_U", n_axes=2, free=1, known=(0, d_model)),
    }
    check_sizes(ledger, sizes)
    words = ", ".join(f"{name} = {size}" for name, size in sizes.items() if name != "d_vocab_out")
    ledger.infer(words, "shapes of pos_embed.W_pos, embed.W_E and blocks.0")
    return sizes


def _n_outputs(settings: Settings, sizes: Mapping[str, int]) -> int:
    """How many logits the loss was over: p if it is said, else all but that of "="."""
    p = settings.size("d_vocab_out")
    in_file = sizes["d_vocab_out"]
    if p is not None:
        if p > in_file:
            raise InputError(f"{settings.place}: p = {p}, but unembed.W_U gives {in_file} logits only")
        return p
    if in_file == sizes["d_vocab"] and in_file > 1:
        return in_file - 1
    return in_file


def _axes(sizes: Mapping[str, int]) -> dict[str, Axes]:
    """Name and axes of every weight, as that code has them."""
    vocab, out, model, ctx = ((axis, sizes[axis]) for axis in ("d_vocab", "d_vocab_out", "d_model", "n_ctx"))
    heads, head, mlp = ((axis, sizes[axis]) for axis in ("n_heads", "d_head", "d_mlp"))
    all_heads = ("n_heads * d_head", heads[1] * head[1])
    axes: dict[str, Axes] = {
        "embed.W_E": (model, vocab),
        "pos_embed.W_pos": (ctx, model),
        "unembed.W_U": (model, out),
    }
    for layer in range(sizes["n_layers"]):
        block = f"blocks.{layer}"
        axes |= {f"{block}.attn.W_{part}": (heads, head, model) for part in "KQV"}
        axes |= {f"{block}.attn.W_O": (model, all_heads), f"{block}.mlp.W_in": (mlp, model)}
        axes |= {f"{block}.mlp.b_in": (mlp,), f"{block}.mlp.W_out": (model, mlp), f"{block}.mlp.b_out": (model,)}
    return axes


def _turned(name: str, weight: Tensor, n_heads: int) -> Tensor:
    """A weight as TransformerLens has it."""
    last = name.rpartition(".")[2]
    if last in ("W_E", "W_in", "W_out"):
        return weight.T
    if last in ("W_Q", "W_K", "W_V"):
        return weight.transpose(1, 2)
    if last == "W_O":
        return weight.T.unflatten(0, (n_heads, -1))
    return weight


def _check_masks(ledger: Ledger, sizes: Mapping[str, int]) -> None:
    """The masks, where the file has them, must be causal: 1 on and below the diagonal."""
    positions = ("n_ctx", sizes["n_ctx"])
    names = [f"blocks.{layer}.attn.mask" for layer in range(sizes["n_layers"])]
    names = [name for name in names if name in ledger]
    for name in names:
        mask = ledger.take(name, positions, positions)
        if not torch.equal(mask.double(), torch.ones(mask.shape, dtype=torch.float64).tril()):
            raise InputError(
                f"{ledger.place}: {name} must be causal, 1 on and below the diagonal and 0 above, but is not"
            )
    ledger.ignore(names, "buffers, rebuilt from n_ctx")


ORIGINAL_GROKKING = Importer(
    name="original-grokking",
    recognises=recognises,
    read=read,
)
