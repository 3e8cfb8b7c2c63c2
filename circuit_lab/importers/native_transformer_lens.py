"""TransformerLens 4: state dicts of `TransformerBridge.boot_native`, and of the NativeModel inside it.

Weights are those of `torch.nn.Linear`, `[out, in]`, all heads of a layer in one (transformer_lens/model_bridge/sources/
native/model.py of TransformerLens 4.3): `blocks.0.attn.q.weight [n_heads * d_head, d_model]`, so the number of heads is
not in the file and must be said. The NativeModel calls the same tensors `tok_embed`, `pos`, `layers`, `mlp.fc_in`,
`mlp.fc_out`, `ln_out`, `head`; inside a bridge each has several names, with `_original_component` between the parts.
"""

from collections.abc import Mapping

from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Imported, Importer, Options, Source
from circuit_lab.importers.ledger import Ledger
from circuit_lab.importers.state_dicts import has_axes, peek, read_state_dict, same
from circuit_lab.importers.transformer_settings import (
    Settings,
    act_fn_of,
    attention_of,
    eps_of,
    find_settings,
    norm_of,
    sort_settings,
)
from circuit_lab.importers.transformer_weights import (
    Axes,
    check_sizes,
    common_size,
    count_layers,
    make_net,
    norm_parts,
    size_beside,
    take_all,
    unit_norms,
)

LAYOUT = "TransformerLens 4 native"
_WRAPPER = "_original_component"
_FIRST = {"tok_embed": "embed", "pos": "pos_embed", "layers": "blocks", "ln_out": "ln_final", "head": "unembed"}
"""The bridge's name of each module of a NativeModel."""
_MLP = {"fc_in": "in", "fc_out": "out"}
_NORM_PARTS = {"w": "weight", "b": "bias"}


def recognises(source: Source) -> bool:
    """Whether the file has embeddings, queries and an MLP by the bridge's names or those of a NativeModel.

    Args:
        source: What was read.

    Returns:
        Whether it is of this dialect.
    """
    tensors = {_bridge_name(name): tensor for name, tensor in peek(source).items()}
    names = ("embed.weight", "pos_embed.weight", "blocks.0.attn.q.weight", "blocks.0.mlp.in.weight")
    return has_axes(tensors, dict.fromkeys(names, 2))


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
    tensors, copies = _in_bridge_names(state.tensors, state.place)
    ledger = Ledger(tensors, place=state.place, layout=LAYOUT)
    if copies:
        ledger.ignored.append(f"{copies} tensor(s) that are there by several names: all equal")
    settings = sort_settings(find_settings(source, options, state.settings, ledger), ledger)
    parts = {name.rpartition(".")[2] for name in tensors if {"ln1", "ln2", "ln_final"} & set(name.split("."))}
    norm, has_own = norm_of(settings, ledger, has_weight="weight" in parts, has_bias="bias" in parts)
    sizes = _sizes(ledger, settings)
    settings.agree(sizes)
    axes = _axes(sizes, norm_parts(norm, has_own=has_own))
    taken = take_all(ledger, axes, optional=lambda name: name == "unembed.bias")
    weights = {_legacy_name(name): _turned(name, tensor, sizes["n_heads"]) for name, tensor in taken.items()}
    if not has_own:
        weights |= unit_norms(weights, sizes["n_layers"], norm_parts(norm))
    computation = {
        "normalization_type": norm,
        "act_fn": act_fn_of(settings, ledger, default=None),
        "attention_dir": attention_of(settings, ledger),
        "eps": eps_of(settings, ledger, normed=norm is not None),
    }
    shapes = {name: size for name, size in sizes.items() if name != "n_layers"}
    return state.imported(make_net(ledger, weights, {**shapes, **computation}), ledger)


def _bridge_name(name: str) -> str:
    """The bridge's name of a tensor of a NativeModel, or of one wrapped in a bridge; others stay as they are."""
    parts = [part for part in name.split(".") if part != _WRAPPER]
    if parts[0] in _FIRST:
        parts[0] = _FIRST[parts[0]]
        parts = [_MLP.get(part, part) for part in parts]
    return ".".join(parts)


def _in_bridge_names(tensors: Mapping[str, Tensor], place: str) -> tuple[dict[str, Tensor], int]:
    """The tensors by the bridge's names, and how many more names there were for the same ones."""
    renamed: dict[str, Tensor] = {}
    first_name: dict[str, str] = {}
    for name, tensor in tensors.items():
        ours = _bridge_name(name)
        if ours in renamed and not same(renamed[ours], tensor):
            raise InputError(f"{place}: {name} differs from {first_name[ours]}, but both are {ours} of one net")
        renamed.setdefault(ours, tensor)
        first_name.setdefault(ours, name)
    return renamed, len(tensors) - len(renamed)


def _sizes(ledger: Ledger, settings: Settings) -> dict[str, int]:
    """Every size, read off the shapes, with the heads that the settings say."""
    n_layers = count_layers(ledger)
    position, query = "pos_embed.weight", "blocks.0.attn.q.weight"
    d_model = common_size(ledger, [(position, 2, 1), (query, 2, 1), ("unembed.weight", 2, 1)])
    all_heads = size_beside(ledger, query, n_axes=2, free=0, known=(1, d_model))
    n_heads, d_head = settings.size("n_heads"), settings.size("d_head")
    if n_heads is None and d_head is None:
        raise InputError(
            f"{ledger.place}: the number of heads cannot be told from shapes (blocks.0.attn.q.weight has {all_heads} "
            f"rows, n_heads * d_head), and there is none in {settings.place}; give a JSON file as config, such as "
            '{"n_heads": 4, "act_fn": "gelu"}'
        )
    name, divisor = ("n_heads", n_heads) if n_heads is not None else ("d_head", d_head)
    assert divisor is not None
    if all_heads % divisor != 0:
        raise InputError(
            f"{settings.place}: {name} = {divisor} does not divide the {all_heads} rows of blocks.0.attn.q.weight; "
            "give the config that the net was trained with"
        )
    heads = divisor if n_heads is not None else all_heads // divisor
    sizes = {
        "n_layers": n_layers,
        "n_ctx": size_beside(ledger, position, n_axes=2, free=0, known=(1, d_model)),
        "d_model": d_model,
        "d_vocab": size_beside(ledger, "embed.weight", n_axes=2, free=0, known=(1, d_model)),
        "d_head": all_heads // heads,
        "n_heads": heads,
        "d_mlp": size_beside(ledger, "blocks.0.mlp.in.weight", n_axes=2, free=0, known=(1, d_model)),
        "d_vocab_out": size_beside(ledger, "unembed.weight", n_axes=2, free=0, known=(1, d_model)),
    }
    check_sizes(ledger, sizes)
    words = ", ".join(f"{name} = {size}" for name, size in sizes.items() if name not in ("n_heads", "d_head"))
    ledger.infer(words, "shapes of pos_embed, embed, blocks.0 and unembed")
    return sizes


def _axes(sizes: Mapping[str, int], norms: tuple[str, ...]) -> dict[str, Axes]:
    """Name and axes of every weight; `unembed.bias` is there in a bridge and not in a NativeModel."""
    vocab, out, model, ctx = ((axis, sizes[axis]) for axis in ("d_vocab", "d_vocab_out", "d_model", "n_ctx"))
    mlp, heads = ("d_mlp", sizes["d_mlp"]), ("n_heads * d_head", sizes["n_heads"] * sizes["d_head"])
    axes: dict[str, Axes] = {"embed.weight": (vocab, model), "pos_embed.weight": (ctx, model)}
    for layer in range(sizes["n_layers"]):
        block = f"blocks.{layer}"
        axes |= {f"{block}.attn.{part}.weight": (heads, model) for part in "qkv"}
        axes |= {f"{block}.attn.{part}.bias": (heads,) for part in "qkv"}
        axes |= {f"{block}.attn.o.weight": (model, heads), f"{block}.attn.o.bias": (model,)}
        axes |= {f"{block}.mlp.in.weight": (mlp, model), f"{block}.mlp.in.bias": (mlp,)}
        axes |= {f"{block}.mlp.out.weight": (model, mlp), f"{block}.mlp.out.bias": (model,)}
        axes |= {f"{block}.{norm}.{_NORM_PARTS[part]}": (model,) for norm in ("ln1", "ln2") for part in norms}
    axes |= {f"ln_final.{_NORM_PARTS[part]}": (model,) for part in norms}
    return axes | {"unembed.weight": (out, model), "unembed.bias": (out,)}


def _legacy_name(name: str) -> str:
    """The name that TransformerLens had for a weight before version 4, which is ours."""
    module, _, kind = name.rpartition(".")
    letter = "W" if kind == "weight" else "b"
    outer = {"embed.weight": "embed.W_E", "pos_embed.weight": "pos_embed.W_pos"}
    if name in outer:
        return outer[name]
    if module == "unembed":
        return f"unembed.{letter}_U"
    parent, _, last = module.rpartition(".")
    if last in ("ln1", "ln2", "ln_final"):
        return f"{module}.{letter.lower()}"
    return f"{parent}.{letter}_{last.upper() if parent.endswith('attn') else last}"


def _turned(name: str, weight: Tensor, n_heads: int) -> Tensor:
    """A weight in the shape that TransformerLens had before version 4, which is ours."""
    module, _, kind = name.rpartition(".")
    part = module.rpartition(".")[2]
    if part in ("q", "k", "v"):
        per_head = weight.unflatten(0, (n_heads, -1))
        return per_head.transpose(1, 2) if kind == "weight" else per_head
    if part == "o" and kind == "weight":
        return weight.T.unflatten(0, (n_heads, -1))
    if part in ("in", "out", "unembed") and kind == "weight":
        return weight.T
    return weight


NATIVE_TRANSFORMER_LENS = Importer(
    name="transformer-lens-native",
    recognises=recognises,
    read=read,
)
