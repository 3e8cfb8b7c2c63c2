"""From foreign tensors in TransformerLens's names and shapes to a shared transformer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import mode
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.ledger import Ledger
from circuit_lab.nets import HookedSharedTransformer, SharedTransformerConfig, build_net
from circuit_lab.training.checkpoint import check_finite

Axes = tuple[tuple[str, int], ...]
ATTN_BIASES = ("b_Q", "b_K", "b_V", "b_O")
MLP_BIASES = ("b_in", "b_out")
_MAX_DIGITS = 4


def count_layers(ledger: Ledger, *, prefix: str = "blocks") -> int:
    """How many layers there are, which must be numbered 0, 1, 2, ...

    Args:
        ledger: The tensors.
        prefix: What stands before the number.

    Returns:
        The number of layers.

    Raises:
        InputError: If there is none, or one is missing.
    """
    found: set[int] = set()
    for name in ledger.tensors:
        first, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if first == prefix and number.isascii() and number.isdecimal() and len(number) <= _MAX_DIGITS:
            found.add(int(number))
    missing = sorted(set(range(max(found, default=0) + 1)) - found)
    if missing:
        raise InputError(
            f"{ledger.place}: layer {prefix}.{missing[0]} is missing, so this is no whole {ledger.layout} net; "
            f"it has {len(found)} layer(s){', up to ' + str(max(found)) if found else ''}"
        )
    return len(found)


def common_size(ledger: Ledger, places: Iterable[tuple[str, int, int]]) -> int:
    """A size that several tensors share, as most of them have it, so that a single transposed one is found out.

    Args:
        ledger: The tensors.
        places: Name of each tensor, how many axes it must have, and which of them the size is.

    Returns:
        The size.

    A tensor that is missing or has another number of axes is an InputError.
    """
    return mode(_shape(ledger, name, n_axes)[axis] for name, n_axes, axis in places)


def size_beside(ledger: Ledger, name: str, *, n_axes: int, free: int, known: tuple[int, int]) -> int:
    """Size of one axis of a tensor, read off beside an axis whose size is known.

    Where the known size stands on the free axis instead, the other's size is returned, so that `Ledger.take` then says
    that the tensor is transposed, rather than blame other tensors.

    Args:
        ledger: The tensors.
        name: Name of the tensor.
        n_axes: How many axes the tensor must have.
        free: The axis whose size is wanted.
        known: Another axis, and its size.

    Returns:
        The size.

    A tensor that is missing or has another number of axes is an InputError.
    """
    shape = _shape(ledger, name, n_axes)
    axis, size = known
    return shape[axis] if shape[axis] != size and shape[free] == size else shape[free]


def _shape(ledger: Ledger, name: str, n_axes: int) -> tuple[int, ...]:
    shape = ledger.shape(name)
    if len(shape) != n_axes:
        raise InputError(f"{ledger.place}: {name} must have {n_axes} axes, got shape {list(shape)}")
    return shape


def check_sizes(ledger: Ledger, sizes: Mapping[str, int]) -> None:
    """Refuse a net without width, positions or tokens.

    Args:
        ledger: Names the file.
        sizes: Sizes by name, read off the shapes.

    Raises:
        InputError: If one is 0.
    """
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{ledger.place}: {name} is {size} by the shapes of the tensors; it must be at least 1")


def block_axes(sizes: Mapping[str, int], norms: Iterable[str]) -> dict[str, Axes]:
    """Name and axes of every weight of a block in TransformerLens's layout, without `blocks.<layer>.`.

    Args:
        sizes: n_heads, d_model, d_head, d_mlp.
        norms: Parts of a norm's weights: "w" and "b", "w", or none.

    Returns:
        Axes by name; biases included.
    """
    heads, model, head, mlp = ((axis, sizes[axis]) for axis in ("n_heads", "d_model", "d_head", "d_mlp"))
    attn = {f"attn.W_{part}": (heads, model, head) for part in "QKV"} | {"attn.W_O": (heads, head, model)}
    attn_bias = {f"attn.b_{part}": (heads, head) for part in "QKV"} | {"attn.b_O": (model,)}
    inner = {"mlp.W_in": (model, mlp), "mlp.b_in": (mlp,), "mlp.W_out": (mlp, model), "mlp.b_out": (model,)}
    return attn | attn_bias | inner | {f"{norm}.{part}": (model,) for norm in ("ln1", "ln2") for part in norms}


def outer_axes(sizes: Mapping[str, int], norms: Iterable[str]) -> dict[str, Axes]:
    """Name and axes of every weight outside the blocks in TransformerLens's layout.

    Args:
        sizes: d_vocab, d_vocab_out, d_model, n_ctx.
        norms: Parts of a norm's weights: "w" and "b", "w", or none.

    Returns:
        Axes by name; biases included.
    """
    vocab, out, model, ctx = ((axis, sizes[axis]) for axis in ("d_vocab", "d_vocab_out", "d_model", "n_ctx"))
    embeddings = {"embed.W_E": (vocab, model), "pos_embed.W_pos": (ctx, model)}
    return (
        embeddings | {"unembed.W_U": (model, out), "unembed.b_U": (out,)} | {f"ln_final.{p}": (model,) for p in norms}
    )


def take_all(ledger: Ledger, axes: Mapping[str, Axes], *, optional: Callable[[str], bool]) -> dict[str, Tensor]:
    """Every weight of a net; nothing else may be left in the file.

    Args:
        ledger: The tensors; what is no weight must be ignored already.
        axes: Name and axes of every weight, as the file has them.
        optional: Whether the weight of a name may be missing.

    Returns:
        Those that are there, by the file's names.

    Raises:
        InputError: If one is missing, of another shape, or holds anything but finite floating-point numbers, or if
            there are tensors that are none of them.
    """
    weights = {name: ledger.take(name, *axes[name]) for name in axes if name in ledger or not optional(name)}
    ledger.close(known=axes)
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise InputError(f"{ledger.place}: {name} must hold floating-point numbers, got {weight.dtype}")
    check_finite(weights, ledger.place)
    return weights


def is_bias(name: str) -> bool:
    """Whether a weight in TransformerLens's layout is a bias that a net may lack; those of norms are none.

    Args:
        name: Its name.

    Returns:
        Whether it is.
    """
    return name.rpartition(".")[2] in (*ATTN_BIASES, *MLP_BIASES, "b_U")


def make_net(ledger: Ledger, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> HookedSharedTransformer:
    """A net with these weights, its layers tied where their weights are equal.

    Args:
        ledger: Takes note of what was inferred; names the file.
        weights: Every layer's weights in TransformerLens's names and shapes, finite. Biases may be missing, and are 0
            where others of their kind are there.
        settings: What `SharedTransformerConfig` needs beside `layer_map` and the biases.

    Returns:
        The net, in `eval` mode, in float64 if any weight is, else in float32.

    Settings that are not valid are an InputError.
    """
    weights = ledger.in_one_dtype(weights)
    n_layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    biases = {
        "attn_bias": _complete(ledger, weights, _per_layer(n_layers, "attn", ATTN_BIASES), settings),
        "mlp_bias": _complete(ledger, weights, _per_layer(n_layers, "mlp", MLP_BIASES), settings),
        "unembed_bias": _complete(ledger, weights, ["unembed.b_U"], settings),
    }
    layer_map = _find_layer_map(weights, n_layers)
    if len(set(layer_map)) < n_layers:
        ledger.infer(f"layer_map = {list(layer_map)}", "layers with equal weights share a block")
    net = _empty_net(ledger, {**settings, **biases, "layer_map": layer_map})
    net = net.to(weights["embed.W_E"].dtype).eval()
    net.load_unique_state_dict({name: weights[name] for name in net.unique_state_dict()})
    return net


def norm_parts(normalization_type: str | None, *, has_own: bool = True) -> tuple[str, ...]:
    """What a norm of this type has in a file.

    Args:
        normalization_type: Ours.
        has_own: Whether the file has it; a folded norm has nothing.

    Returns:
        Of "w" and "b", those it has.
    """
    if normalization_type is None or not has_own:
        return ()
    return ("w", "b") if normalization_type == "LN" else ("w",)


def unit_norms(weights: Mapping[str, Tensor], n_layers: int, parts: Iterable[str]) -> dict[str, Tensor]:
    """Weights 1 and biases 0 for the norms of a net whose file has none.

    Args:
        weights: The net's other weights.
        n_layers: Number of layers.
        parts: "w" and "b", or "w".

    Returns:
        By name.
    """
    like = weights["embed.W_E"][0]
    values = {"w": torch.ones_like(like), "b": torch.zeros_like(like)}
    norms = [*(f"blocks.{layer}.{norm}" for layer in range(n_layers) for norm in ("ln1", "ln2")), "ln_final"]
    return {f"{norm}.{part}": values[part] for norm in norms for part in parts}


def _per_layer(n_layers: int, part: str, names: Iterable[str]) -> Iterator[str]:
    return (f"blocks.{layer}.{part}.{name}" for layer in range(n_layers) for name in names)


def _complete(ledger: Ledger, weights: dict[str, Tensor], names: Iterable[str], sizes: Mapping[str, Any]) -> bool:
    """Put in zeros for biases that are missing while others of their kind are there; whether there are any."""
    names = list(names)
    missing = [name for name in names if name not in weights]
    if len(missing) == len(names):
        return False
    axes = block_axes(sizes, ())
    for name in missing:
        shape = [size for _, size in axes[name.split(".", 2)[2]]]
        weights[name] = torch.zeros(shape, dtype=weights["embed.W_E"].dtype)
    if missing:
        ledger.infer(f"{', '.join(missing)} = 0", "the file has other biases of that kind, but not these")
    return True


def _find_layer_map(weights: Mapping[str, Tensor], n_layers: int) -> tuple[int, ...]:
    """Which block each layer uses: that of the first layer with equal weights."""
    layers = [_layer(weights, layer) for layer in range(n_layers)]
    first_of_block: list[int] = []
    layer_map = []
    for layer in layers:
        block = next((i for i, first in enumerate(first_of_block) if _equal(layers[first], layer)), len(first_of_block))
        if block == len(first_of_block):
            first_of_block.append(len(layer_map))
        layer_map.append(block)
    return tuple(layer_map)


def _layer(weights: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    prefix = f"blocks.{layer}."
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def _empty_net(ledger: Ledger, settings: Mapping[str, Any]) -> HookedSharedTransformer:
    try:
        return build_net(SharedTransformerConfig(**settings))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{ledger.place}: {name}: {first['msg']} (got {first['input']!r:.80})") from error
