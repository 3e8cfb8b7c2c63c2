"""A checkpoint as a GPT-2 folder that transformers loads.

The layout is that of `circuit_lab.importers.gpt2_folder`, which lists the names. Layers that share a block are written
out one by one, each with a copy of its weights, so that transformers runs them; `circuit_lab.json` keeps the layer map.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet, HookedSharedTransformer, SharedTransformerConfig
from circuit_lab.tasks import TwoHopTask
from circuit_lab.tasks.whole_folder import whole_folder
from circuit_lab.training import Checkpoint

NOTES = "circuit_lab.json"
"""What no key of GPT-2's `config.json` says; transformers does not read it."""


def export_gpt2(checkpoint: Checkpoint, folder: str | Path) -> Path:
    """Write a checkpoint as a GPT-2 folder: `transformers.GPT2LMHeadModel.from_pretrained(folder)` gives equal logits.

    Args:
        checkpoint: The checkpoint.
        folder: The folder; it may exist if it is empty. It appears whole or not at all.

    Returns:
        The folder.

    A net that is not of GPT-2's architecture (every reason is named), or a folder in use, is an InputError.
    """
    folder = Path(folder)
    net = _gpt2_like(checkpoint)
    config, notes = _config(net, checkpoint), _notes(net, checkpoint)
    with whole_folder(folder) as unfinished:
        weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in _weights(net).items()}
        safetensors.torch.save_file(weights, unfinished / "model.safetensors", {"format": "pt"})
        _write_json(unfinished / "config.json", config)
        _write_json(unfinished / NOTES, notes)
        if isinstance(checkpoint.given_task, TwoHopTask):
            ids = {token: index for index, token in enumerate(checkpoint.given_task.vocab)}
            _write_json(unfinished / "added_tokens.json", ids)
    return folder


def _gpt2_like(checkpoint: Checkpoint) -> HookedSharedTransformer:
    """The net, if GPT-2's layout can say it."""
    net = checkpoint.net
    reasons = _reasons_against(net)
    if reasons or not isinstance(net, HookedSharedTransformer):
        raise InputError(
            f"{checkpoint.path} cannot be written as a GPT-2 folder: {'; '.join(reasons)}. "
            "Write it as a circuit_lab or TransformerLens checkpoint, or as ONNX"
        )
    return net


def _reasons_against(net: HookedNet) -> list[str]:
    """Every way in which the net differs from GPT-2's architecture."""
    if not isinstance(net, HookedSharedTransformer):
        return [f"it is a {net.cfg.kind} net, GPT-2 is a plain transformer"]
    cfg = net.cfg
    has_unembed_bias = cfg.unembed_bias and bool((net.unembed.b_U != 0).any())
    reasons = {
        f"normalization_type = {cfg.normalization_type or 'none'}, GPT-2 has LN": cfg.normalization_type != "LN",
        f"norm_position = {cfg.norm_position}, GPT-2 has pre": cfg.norm_position != "pre",
        "it has no final norm, GPT-2 has one": not cfg.final_norm,
        f"attention_dir = {cfg.attention_dir}, GPT-2 has causal": cfg.attention_dir != "causal",
        f"n_heads x d_head = {cfg.n_heads} x {cfg.d_head} is not d_model = {cfg.d_model}": cfg.n_heads * cfg.d_head
        != cfg.d_model,
        f"d_vocab_out = {cfg.d_vocab_out} is not d_vocab = {cfg.d_vocab}": cfg.d_vocab_out != cfg.d_vocab,
        "its unembedding has a bias, GPT-2's has none": has_unembed_bias,
    }
    return [reason for reason, holds in reasons.items() if holds]


def _config(net: HookedSharedTransformer, checkpoint: Checkpoint) -> dict[str, Any]:
    """`config.json`; no token is special but the padding of a two-hop task."""
    cfg, task = net.cfg, checkpoint.given_task
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": cfg.n_layers,
        "n_head": cfg.n_heads,
        "n_embd": cfg.d_model,
        "n_inner": cfg.d_mlp,
        "n_positions": cfg.n_ctx,
        "vocab_size": cfg.d_vocab,
        "activation_function": cfg.act_fn,
        "layer_norm_epsilon": cfg.eps,
        "tie_word_embeddings": False,
        "scale_attn_weights": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": task.pad_token if isinstance(task, TwoHopTask) else None,
        "dtype": str(net.dtype).removeprefix("torch."),
    }


def _notes(net: HookedSharedTransformer, checkpoint: Checkpoint) -> dict[str, Any]:
    task = checkpoint.given_task
    return {
        "written_by": "circuit_lab",
        "layer_map": list(net.cfg.layer_map),
        "layers": "each layer of the layer map is written out with a copy of its block's weights",
        "step": checkpoint.step,
        "weights_hash": checkpoint.weights_hash,
        "task": None if task is None else str(task),
        "task_hash": None if task is None else task.certificate.task_hash,
    }


def _weights(net: HookedSharedTransformer) -> dict[str, Tensor]:
    """Every weight in GPT-2's names and shapes; a bias that the net has not is written as zeros."""
    weights = {
        "transformer.wte.weight": net.embed.W_E,
        "transformer.wpe.weight": net.pos_embed.W_pos,
        "transformer.ln_f.weight": net.get_parameter("ln_final.w"),
        "transformer.ln_f.bias": net.get_parameter("ln_final.b"),
        "lm_head.weight": net.unembed.W_U.T,
    }
    for layer in range(net.cfg.n_layers):
        block = _block_weights(net, layer, net.cfg)
        weights |= {f"transformer.h.{layer}.{name}": weight for name, weight in block.items()}
    return weights


def _block_weights(net: HookedSharedTransformer, layer: int, cfg: SharedTransformerConfig) -> dict[str, Tensor]:
    """The weights of one effective layer."""
    block = net.blocks[layer]
    attn, mlp = block.attn, block.mlp
    matrices = torch.stack([attn.W_Q, attn.W_K, attn.W_V])  # [3, n_heads, d_model, d_head]
    biases = torch.stack([attn.b_Q, attn.b_K, attn.b_V])  # [3, n_heads, d_head]
    return {
        "ln_1.weight": block.ln1.get_parameter("w"),
        "ln_1.bias": block.ln1.get_parameter("b"),
        "ln_2.weight": block.ln2.get_parameter("w"),
        "ln_2.bias": block.ln2.get_parameter("b"),
        "attn.c_attn.weight": matrices.permute(2, 0, 1, 3).reshape(cfg.d_model, 3 * cfg.d_model),
        "attn.c_attn.bias": biases.flatten(),
        "attn.c_proj.weight": attn.W_O.flatten(0, 1),
        "attn.c_proj.bias": attn.b_O,
        "mlp.c_fc.weight": mlp.W_in,
        "mlp.c_fc.bias": mlp.b_in,
        "mlp.c_proj.weight": mlp.W_out,
        "mlp.c_proj.bias": mlp.b_out,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
