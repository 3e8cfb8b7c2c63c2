"""Write the files of docs/importing.md: reference models of ours in the layouts of other codes, into foreign/.

Where the other code is a library that is installed (transformers, TransformerLens 4), the library writes the file.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

import circuit_lab
from circuit_lab.exporters import export_legacy
from circuit_lab.tasks import TwoHopTask, write_dataset_folder
from circuit_lab.training import Checkpoint

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def write_original_grokking(checkpoint: Checkpoint, path: Path) -> None:
    """The first grokking code's layout; its unembedding has a column for "=", which nobody reads."""
    net = checkpoint.net
    weights = {name: weight.clone() for name, weight in net.unique_state_dict().items()}
    attention, mlp = "blocks.0.attn.", "blocks.0.mlp."
    state: dict[str, Tensor] = {
        "embed.W_E": weights["embed.W_E"].T,
        "pos_embed.W_pos": weights["pos_embed.W_pos"],
        **{f"{attention}W_{name}": weights[f"{attention}W_{name}"].transpose(1, 2) for name in "QKV"},
        f"{attention}W_O": weights[f"{attention}W_O"].flatten(0, 1).T,
        f"{attention}mask": torch.ones(net.cfg.n_ctx, net.cfg.n_ctx).tril(),
        f"{mlp}W_in": weights[f"{mlp}W_in"].T,
        f"{mlp}b_in": weights[f"{mlp}b_in"],
        f"{mlp}W_out": weights[f"{mlp}W_out"].T,
        f"{mlp}b_out": weights[f"{mlp}b_out"],
        "unembed.W_U": torch.cat([weights["unembed.W_U"], torch.zeros(net.cfg.d_model, 1)], dim=1),
    }
    state = {name: weight.contiguous() for name, weight in state.items()}
    torch.save({"model": state, "epoch": checkpoint.step, "train_losses": [], "test_losses": []}, path)


def write_recurrent_gpt2(checkpoint: Checkpoint, folder: Path, *, tokens: list[str]) -> None:
    """A GPT-2 of as many layers as the net has blocks, in transformers' own words; how often they run is not said.

    Its tokens are those of the dataset, some of which (`<mask>`, `</a>`) the net has no rows for: theirs are zero.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    cfg, weights = checkpoint.net.cfg, checkpoint.net.unique_state_dict()
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokens),
            n_positions=cfg.n_ctx,
            n_embd=cfg.d_model,
            n_layer=cfg.n_blocks,
            n_head=cfg.n_heads,
            n_inner=cfg.d_mlp,
            activation_function=cfg.act_fn,
            layer_norm_epsilon=cfg.eps,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    rows = torch.zeros(len(tokens) - cfg.d_vocab, cfg.d_model)
    state = {
        "transformer.wte.weight": torch.cat([weights["embed.W_E"], rows]),
        "transformer.wpe.weight": weights["pos_embed.W_pos"],
        "transformer.ln_f.weight": weights["ln_final.w"],
        "transformer.ln_f.bias": weights["ln_final.b"],
        "lm_head.weight": torch.cat([weights["unembed.W_U"].T, rows]),
    }
    for block in range(cfg.n_blocks):
        ours, theirs = f"blocks.{cfg.layer_map.index(block)}.", f"transformer.h.{block}."
        state |= {
            f"{theirs}{their}.{kind}": weights[f"{ours}{our}.{kind[0]}"]
            for our, their in (("ln1", "ln_1"), ("ln2", "ln_2"))
            for kind in ("weight", "bias")
        }
        qkv = [weights[f"{ours}attn.W_{name}"].permute(1, 0, 2).flatten(1) for name in "QKV"]
        state |= {
            f"{theirs}attn.c_attn.weight": torch.cat(qkv, dim=1),
            f"{theirs}attn.c_attn.bias": torch.cat([weights[f"{ours}attn.b_{name}"].flatten() for name in "QKV"]),
            f"{theirs}attn.c_proj.weight": weights[f"{ours}attn.W_O"].flatten(0, 1),
            f"{theirs}attn.c_proj.bias": weights[f"{ours}attn.b_O"],
            f"{theirs}mlp.c_fc.weight": weights[f"{ours}mlp.W_in"],
            f"{theirs}mlp.c_fc.bias": weights[f"{ours}mlp.b_in"],
            f"{theirs}mlp.c_proj.weight": weights[f"{ours}mlp.W_out"],
            f"{theirs}mlp.c_proj.bias": weights[f"{ours}mlp.b_out"],
        }
    model.load_state_dict(state)
    model.save_pretrained(folder)
    (folder / "added_tokens.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))


def write_tiny_recursive(folder: Path) -> None:
    """A random net of the released code, with its prefixes; what its weights do not say stands beside it."""
    with safe_open(GOLDEN / "trm_attention_rope.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["config"])
        names = [name for name in file.keys() if name.startswith("param/")]  # noqa: SIM118
        state = {f"_orig_mod.model.inner.{name.removeprefix('param/')}": file.get_tensor(name) for name in names}
    folder.mkdir()
    torch.save(state, folder / "step_1000")
    (folder / "config.json").write_text(json.dumps(settings))


def write_native(checkpoint: Checkpoint, path: Path) -> None:
    """A bridge of TransformerLens 4, saved as its users save it; the number of heads stands beside it."""
    from transformer_lens.model_bridge import TransformerBridge

    cfg = checkpoint.net.cfg
    settings = {
        "n_layers": cfg.n_layers,
        "n_heads": cfg.n_heads,
        "d_head": cfg.d_head,
        "d_model": cfg.d_model,
        "d_mlp": cfg.d_mlp,
        "d_vocab": cfg.d_vocab,
        "d_vocab_out": cfg.d_vocab_out,
        "n_ctx": cfg.n_ctx,
        "act_fn": cfg.act_fn,
        "normalization_type": cfg.normalization_type,
    }
    bridge = TransformerBridge.boot_native(settings)
    weights, state = checkpoint.net.unique_state_dict(), {}
    for name, empty in bridge.state_dict().items():
        state[name] = torch.zeros_like(empty)
    attention, mlp = "blocks.0.attn.", "blocks.0.mlp."
    state |= {
        "embed.weight": weights["embed.W_E"],
        "pos_embed.weight": weights["pos_embed.W_pos"],
        **{
            f"{attention}{name.lower()}.weight": weights[f"{attention}W_{name}"].transpose(1, 2).flatten(0, 1)
            for name in "QKV"
        },
        f"{attention}o.weight": weights[f"{attention}W_O"].flatten(0, 1).T,
        f"{mlp}in.weight": weights[f"{mlp}W_in"].T,
        f"{mlp}in.bias": weights[f"{mlp}b_in"],
        f"{mlp}out.weight": weights[f"{mlp}W_out"].T,
        f"{mlp}out.bias": weights[f"{mlp}b_out"],
        "unembed.weight": weights["unembed.W_U"].T,
    }
    bridge.load_state_dict(state)
    torch.save(bridge.state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps(settings))


def main(folder: Path) -> None:
    """Write one checkpoint of each dialect, and the dataset of the two-hop one."""
    folder.mkdir(parents=True)
    grokked, circuit = (circuit_lab.reference_model(name) for name in ("modular-grokked", "two-hop-true-circuit"))
    export_legacy(grokked, folder / "grokking_demo.pth")
    write_original_grokking(grokked, folder / "full_run_data.pth")
    assert isinstance(circuit.task, TwoHopTask)
    dataset = write_dataset_folder(circuit.task, folder / "composition")
    write_recurrent_gpt2(circuit, folder / "gpt2", tokens=json.loads((dataset / "vocab.json").read_text()))
    write_tiny_recursive(folder / "trm")
    write_native(grokked, folder / "native.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("foreign"))
