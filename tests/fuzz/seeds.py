"""Whole files of every kind, small, to be damaged."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from foreign_nets import native_golden, original_state
from recursive_nets import GOLDEN_NAMES, golden_parameters, read_golden
from small_runs import MODULAR, TWO_HOP

from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task, write_dataset_folder
from circuit_lab.training import Recipe, parse_recipe, save_checkpoint, train


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another code.

    Attributes:
        content: What its file holds.
        settings: What config.json beside it says; None if there is none.
    """

    content: Any
    settings: dict[str, Any] | None

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors alone."""
        return self.content.get("model", self.content)


@dataclass(frozen=True)
class Seeds:
    """Where the files are, and what the torch files hold.

    Attributes:
        run: A run folder of a modular task, of four checkpoints.
        recipe: Its recipe.
        own: Checkpoints of ours: with a task, and without.
        foreign: Other codes' checkpoints by dialect.
        gpt2: A GPT-2 folder.
        dataset: A dataset folder.
        recipes: Recipes as TOML.
    """

    run: Path
    recipe: Recipe
    own: tuple[Path, ...]
    foreign: dict[str, Foreign]
    gpt2: Path
    dataset: Path
    recipes: tuple[bytes, ...]


def make_seeds(folder: Path) -> Seeds:
    """Write every file.

    Args:
        folder: Where to; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = parse_recipe(MODULAR, source="a test")
    run = train(recipe, folder / "run", device="cpu", progress=False)
    without_task = save_checkpoint(folder / "no-task.safetensors", net=_net(), task=None, step=3, metrics={})
    two_hop = parse_recipe(TWO_HOP, source="a test")
    small = two_hop.task.model_copy(update={"n_entities": 8, "n_relations": 4, "out_degree": 3})
    return Seeds(
        run=run.run,
        recipe=recipe,
        own=(run.checkpoint, without_task),
        foreign=_foreign(),
        gpt2=_gpt2(folder / "gpt2"),
        dataset=write_dataset_folder(build_task(small), folder / "dataset"),
        recipes=tuple(tomli_w.dumps(tables).encode() for tables in (MODULAR, TWO_HOP)),
    )


def _net():
    recipe = parse_recipe(MODULAR, source="a test")
    net = build_net(recipe.net_config(d_vocab=8, d_vocab_out=7, n_ctx=3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net.eval()


def _foreign() -> dict[str, Foreign]:
    legacy = {name: weight.detach().clone() for name, weight in _net().state_dict().items()}
    grokking = original_state(p=7, dtype=torch.float32)
    native, native_settings, _, _ = native_golden()
    recursive, recursive_settings = golden_parameters(GOLDEN_NAMES[0]), read_golden(GOLDEN_NAMES[0])[1]
    return {
        "transformer-lens-legacy": Foreign(legacy, None),
        "original-grokking": Foreign({"model": grokking, "epoch": 10}, None),
        "transformer-lens-native": Foreign(native, native_settings),
        "tiny-recursive": Foreign(recursive, recursive_settings),
    }


def _gpt2(folder: Path) -> Path:
    """What `save_pretrained` writes, without importing transformers, which takes seconds."""
    import safetensors.torch

    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 12,
        "n_inner": 20,
        "vocab_size": 16,
        "n_positions": 5,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "attn_pdrop": 0.0,
        "initializer_range": 0.02,
    }
    shapes = {
        "wte.weight": (16, 12),
        "wpe.weight": (5, 12),
        "ln_f.weight": (12,),
        "ln_f.bias": (12,),
        **{f"h.0.{norm}.{part}": (12,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")},
        "h.0.attn.c_attn.weight": (12, 36),
        "h.0.attn.c_attn.bias": (36,),
        "h.0.attn.c_proj.weight": (12, 12),
        "h.0.attn.c_proj.bias": (12,),
        "h.0.mlp.c_fc.weight": (12, 20),
        "h.0.mlp.c_fc.bias": (20,),
        "h.0.mlp.c_proj.weight": (20, 12),
        "h.0.mlp.c_proj.bias": (12,),
    }
    random = torch.Generator().manual_seed(2)
    weights = {f"transformer.{name}": torch.randn(shape, generator=random) for name, shape in shapes.items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
