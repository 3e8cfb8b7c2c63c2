"""A shared transformer as a state dict of legacy TransformerLens, for `HookedTransformer.load_state_dict`.

Every layer's copy of the weights is written, tied layers repeated; biases that our net lacks are zeros, since a
HookedTransformer has them all; the buffers `attn.mask` and `attn.IGNORE` are those it makes itself. Beside the weights
stands a JSON file with the fields of `HookedTransformerConfig`:

    config = json.loads(Path("net.json").read_text())
    net = HookedTransformer(HookedTransformerConfig(**config))
    net.load_state_dict(torch.load("net.pt", weights_only=True))
"""

import io
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedSharedTransformer, SharedTransformerConfig
from circuit_lab.tasks.whole_folder import make_parent, refuse_occupied
from circuit_lab.training import Checkpoint, write_atomically

SUFFIXES = (".pt", ".pth", ".safetensors")
_BIASES = ("attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O", "mlp.b_in", "mlp.b_out")


def export_legacy(checkpoint: Checkpoint, path: str | Path) -> Path:
    """Write the weights to a file, and the settings to a JSON file of the same stem beside it.

    Args:
        checkpoint: The checkpoint, of a shared transformer.
        path: The file, `*.pt`, `*.pth` or `*.safetensors`; parent folders are made. Neither file may exist yet.

    Returns:
        The path of the weights.

    A net that legacy TransformerLens cannot say, and a target that exists or has another ending, are an InputError.
    """
    path = Path(path)
    settings_path = _check_target(path)
    net = _expressible(checkpoint)
    state = {name: weight.cpu().contiguous().clone() for name, weight in legacy_state_dict(net).items()}
    content = _bytes(state, as_safetensors=path.suffix == ".safetensors")
    settings = json.dumps(legacy_settings(net.cfg), indent=2).encode() + b"\n"
    make_parent(path)
    _write_both({settings_path: settings, path: content})
    return path


def legacy_state_dict(net: HookedSharedTransformer) -> dict[str, Tensor]:
    """What `HookedTransformer.state_dict()` gives for the same net.

    Args:
        net: The net, of an architecture that legacy TransformerLens has.

    Returns:
        Weights and buffers by name.
    """
    state = {name: weight.detach() for name, weight in net.tl_parameters().items()}
    mask = torch.ones(net.cfg.n_ctx, net.cfg.n_ctx, dtype=torch.bool).tril()
    for layer, block in enumerate(net.blocks):
        state |= {f"blocks.{layer}.{name}": block.get_buffer(name) for name in _BIASES if not _is_trained(block, name)}
        # HookedTransformer keeps a causal mask even where it does not use it.
        state |= {f"blocks.{layer}.attn.mask": mask, f"blocks.{layer}.attn.IGNORE": torch.tensor(-torch.inf)}
    state.setdefault("unembed.b_U", net.b_U.detach())
    return state


def legacy_settings(config: SharedTransformerConfig) -> dict[str, Any]:
    """The fields of `HookedTransformerConfig` for a net.

    Args:
        config: The net's.

    Returns:
        JSON values by name.
    """
    same = (
        "n_layers",
        "d_model",
        "n_ctx",
        "d_head",
        "n_heads",
        "d_mlp",
        "d_vocab",
        "d_vocab_out",
        "act_fn",
        "eps",
        "normalization_type",
        "attention_dir",
    )
    return {name: getattr(config, name) for name in same}


def _is_trained(block: torch.nn.Module, name: str) -> bool:
    return name in dict(block.named_parameters())


def _check_target(path: Path) -> Path:
    """Refuse a path that is taken or of another kind; where the settings go."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"cannot export to {path}: the file must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    settings_path = path.with_suffix(".json")
    for target in (path, settings_path):
        refuse_occupied(target, empty_folder_is_free=False)
    return settings_path


def _expressible(checkpoint: Checkpoint) -> HookedSharedTransformer:
    """The net, if a HookedTransformer can compute the same; else each reason why not."""
    net = checkpoint.net
    if not isinstance(net, HookedSharedTransformer):
        raise InputError(
            f"{checkpoint.path} cannot be exported to legacy TransformerLens: it is a {type(net).__name__}, "
            "which is no transformer of that library"
        )
    config = net.cfg
    reasons = []
    if config.norm_position == "post":
        reasons.append("its norms stand after attention and MLP (norm_position = post), not before them")
    if config.normalization_type is not None and not config.final_norm:
        reasons.append("it has norms, but none before the unembedding (final_norm = false)")
    if reasons:
        raise InputError(
            f"{checkpoint.path} cannot be exported to legacy TransformerLens, which has no such net: "
            f"{'; '.join(reasons)}"
        )
    return net


def _bytes(state: dict[str, Tensor], *, as_safetensors: bool) -> bytes:
    if as_safetensors:
        return safetensors.torch.save(state, {"format": "pt"})
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _write_both(contents: dict[Path, bytes]) -> None:
    """All files, none of which is there yet, or none."""
    try:
        for path, content in contents.items():
            write_atomically(path, content)
    except BaseException:
        for path in contents:
            path.unlink(missing_ok=True)
        raise
