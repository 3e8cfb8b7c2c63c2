"""Other people's nets for the importers' tests: real libraries where they are installed, plain torch where not.

Every parameter is random and non-zero, every size another, so that a swapped axis cannot pass.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from circuit_lab.importers.contract import Source

GOLDEN = Path(__file__).parent.parent / "golden"
HOOKED_TRANSFORMERS = [
    "bidirectional_rms_2layer",
    "causal_ln_2layer",
    "modular_1layer",
    "tied_cycle_4layer",
    "tied_universal_3layer",
]
"""Nets of HookedTransformer 3.9, stored with their logits."""
NATIVE = GOLDEN / "native_bridge.safetensors"
"""A net of TransformerLens 4.3's boot_native, stored with its logits by `write_native_golden`."""
NATIVE_SETTINGS = {
    "d_model": 12,
    "d_head": 5,
    "n_layers": 2,
    "n_ctx": 4,
    "n_heads": 3,
    "d_mlp": 20,
    "d_vocab": 17,
    "d_vocab_out": 13,
    "act_fn": "gelu_new",
    "normalization_type": "LN",
    "eps": 0.01,  # far from the default, so that another eps shows
}
ORIGINAL_SIZES = {"p": 7, "d_model": 12, "n_heads": 3, "d_head": 5, "d_mlp": 20, "n_ctx": 3, "n_layers": 1}


def random_state(shapes, *, seed=0, dtype=torch.float64, scale=0.4):
    """A random tensor of every shape; masks and the like are added by the caller."""
    generator = torch.Generator().manual_seed(seed)
    return {name: (scale * torch.randn(shape, generator=generator)).to(dtype) for name, shape in shapes.items()}


def in_memory(content, path="run.pth"):
    """A source as if read from a file; the path need not exist."""
    return Source(path=Path(path), content=content)


def write_json(path, values):
    path.write_text(json.dumps(values))
    return path


# HookedTransformer of TransformerLens 3.9


def hooked_transformer(name):
    """State dict, the config as HookedTransformerConfig has it, tokens, logits, and how its layers are tied."""
    path = GOLDEN / f"ht39_{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    del config["made_with"]
    layer_map = config.pop("layer_map") or list(range(config["n_layers"]))
    tensors = load_file(path)
    state = {key.removeprefix("param/"): tensor for key, tensor in tensors.items() if key.startswith("param/")}
    return state, config, tensors["tokens"], tensors["logits"], tuple(layer_map)


def with_buffers(state, *, n_ctx, n_layers):
    """The same with the buffers that HookedTransformer.state_dict() has too."""
    mask = torch.ones(n_ctx, n_ctx, dtype=torch.bool).tril()
    buffers = {f"blocks.{i}.attn.mask": mask for i in range(n_layers)}
    return state | buffers | {f"blocks.{i}.attn.IGNORE": torch.tensor(-torch.inf) for i in range(n_layers)}


def causal_ln():
    """State dict with buffers, config, tokens, logits of a net with norms and every bias."""
    state, config, tokens, logits, _ = hooked_transformer("causal_ln_2layer")
    return with_buffers(state, n_ctx=4, n_layers=2), config, tokens, logits


def modular():
    """State dict, tokens, logits of a net without norms."""
    state, _, tokens, logits, _ = hooked_transformer("modular_1layer")
    return state, tokens, logits


def without(state, *endings):
    """The same without the tensors whose names end so."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(endings)}


# The original grokking code (progress-measures-paper, transformers.py), by its parameter names and einsums


def original_state(*, seed=0, p=7, d_model=12, n_heads=3, d_head=5, d_mlp=20, n_ctx=3, n_layers=1, dtype=torch.float64):
    shapes = {"embed.W_E": (d_model, p + 1), "pos_embed.W_pos": (n_ctx, d_model), "unembed.W_U": (d_model, p + 1)}
    for layer in range(n_layers):
        block = f"blocks.{layer}"
        shapes |= {f"{block}.attn.{name}": (n_heads, d_head, d_model) for name in ("W_K", "W_Q", "W_V")}
        shapes |= {f"{block}.attn.W_O": (d_model, n_heads * d_head)}
        shapes |= {f"{block}.mlp.W_in": (d_mlp, d_model), f"{block}.mlp.b_in": (d_mlp,)}
        shapes |= {f"{block}.mlp.W_out": (d_model, d_mlp), f"{block}.mlp.b_out": (d_model,)}
    masks = {f"blocks.{layer}.attn.mask": torch.ones(n_ctx, n_ctx).tril() for layer in range(n_layers)}
    return random_state(shapes, seed=seed, dtype=dtype) | masks


def original_logits(state, tokens, act=torch.relu):
    """That code's forward pass, written with explicit loops over heads; its logits of "=" included."""
    x = torch.stack([torch.stack([state["embed.W_E"][:, token] for token in row]) for row in tokens])
    x = x + state["pos_embed.W_pos"][: tokens.shape[1]]
    n_layers = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    for layer in range(n_layers):
        weights = {k.removeprefix(f"blocks.{layer}."): v for k, v in state.items() if k.startswith(f"blocks.{layer}.")}
        n_heads, d_head, _ = weights["attn.W_Q"].shape
        heads = []
        for head in range(n_heads):
            q, k, v = (x @ weights[f"attn.W_{part}"][head].T for part in "QKV")
            scores = q @ k.transpose(1, 2) / d_head**0.5
            hidden = torch.ones(scores.shape[1:]).triu(1).bool()
            heads.append(scores.masked_fill(hidden, -1e10).softmax(-1) @ v)
        x = x + torch.cat(heads, dim=-1) @ weights["attn.W_O"].T
        neurons = act(x @ weights["mlp.W_in"].T + weights["mlp.b_in"])
        x = x + neurons @ weights["mlp.W_out"].T + weights["mlp.b_out"]
    return x @ state["unembed.W_U"]


# TransformerLens 4's boot_native


def native_bridge(*, seed=0, **changes):
    """A real bridge in float32 with random parameters, norm weights around 1."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(**{**NATIVE_SETTINGS, **changes})
    bridge = TransformerBridge.boot_native(config, device="cpu").eval()
    state = bridge.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    filled = random_state(shapes, seed=seed, dtype=torch.float32)
    filled |= {name: 1 + tensor for name, tensor in filled.items() if ".ln" in f".{name}" and name.endswith("weight")}
    bridge.load_state_dict(filled)
    return bridge


def native_settings(bridge):
    """What a user saves of its config: `TransformerBridgeConfig.to_dict()`, without what JSON cannot say."""
    values = bridge.cfg.to_dict()
    del values["dtype"]
    return {name: float(value) if isinstance(value, float) else value for name, value in values.items()}


def native_tokens(d_vocab=17, n_ctx=4):
    return torch.randint(d_vocab, (5, n_ctx), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def write_native_golden(path=NATIVE):
    """Write the golden net, its settings and its logits."""
    bridge = native_bridge(seed=11)
    tokens = native_tokens()
    tensors = {f"param/{name}": tensor.contiguous().clone() for name, tensor in bridge.state_dict().items()}
    tensors |= {"tokens": tokens, "logits": bridge(tokens, return_type="logits").contiguous()}
    origin = (
        "transformer-lens 4.3 TransformerBridge.boot_native, float32, random parameters (tests/support/foreign_nets)"
    )
    save_file(tensors, path, {"config": json.dumps(native_settings(bridge)), "made_with": origin})


def native_golden():
    """State dict by the bridge's names, settings, tokens, logits."""
    with safe_open(NATIVE, "pt") as file:
        settings = json.loads(file.metadata()["config"])
    tensors = load_file(NATIVE)
    state = {key.removeprefix("param/"): tensor for key, tensor in tensors.items() if key.startswith("param/")}
    return state, settings, tensors["tokens"], tensors["logits"]


def raw_native(state):
    """The same tensors by the names that a NativeModel itself has, which knows no unembedding bias."""
    first = {"embed": "tok_embed", "pos_embed": "pos", "blocks": "layers", "ln_final": "ln_out", "unembed": "head"}
    renamed = {}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        rest = rest.replace("mlp.in.", "mlp.fc_in.").replace("mlp.out.", "mlp.fc_out.")
        renamed[f"{first[head]}.{rest}"] = tensor
    del renamed["head.bias"]
    return renamed
