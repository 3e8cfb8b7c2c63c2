"""Recursive nets for tests: small ones with random parameters, and the golden ones of the released two-hop code."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from circuit_lab.nets import HookedRecursiveTransformer, RecursiveTransformerConfig, build_net
from circuit_lab.nets.sites import sites_to_resume

GOLDEN = Path(__file__).parent.parent / "golden"
GOLDEN_NAMES = ["attention_rope", "position_mlp"]
SIZES = {
    "n_blocks": 2,
    "h_cycles": 2,
    "l_cycles": 3,
    "d_model": 12,
    "n_heads": 3,
    "d_vocab": 17,
    "d_vocab_out": 13,
    "n_ctx": 5,
    "n_prefix": 2,
}
MLP = {"token_mixing": "position_mlp", "n_heads": 0}
RECURSIVE = {
    "rotary": {"positions": "rotary"},
    "learned": {"positions": "learned"},
    "no positions, no prefix": {"n_prefix": 0, "n_blocks": 1},
    "position MLP": MLP,
    "position MLP, learned": {**MLP, "positions": "learned", "expansion": 40.0, "l_cycles": 2},
}
FIRST_FAST = ["rotary", *(pytest.param(name, marks=pytest.mark.slow) for name in RECURSIVE if name != "rotary")]
"""For what takes seconds with each net."""


def recursive_config(**changes) -> RecursiveTransformerConfig:
    return RecursiveTransformerConfig(**{**SIZES, **changes})


def make_recursive_net(*, seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> HookedRecursiveTransformer:
    """A net in eval mode, every parameter random, the prefix too, and small enough that rounding does not grow."""
    net = build_net(recursive_config(**changes)).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return net


@cache
def kept_recursive_net(name: str) -> HookedRecursiveTransformer:
    """A net of `RECURSIVE`, or "plain", made once for all tests that leave its weights and its mode as they are."""
    return make_recursive_net(**RECURSIVE.get(name, {}))


def recursive_tokens(n: int = 6, *, seed: int = 1, n_ctx: int = 5) -> torch.Tensor:
    return torch.randint(17, (n, n_ctx), generator=torch.Generator().manual_seed(seed))


def read_golden(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Everything that is stored, by name, and that code's settings."""
    path = GOLDEN / f"trm_{name}.safetensors"
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["config"])
    return load_file(path), settings


def golden_parameters(name: str) -> dict[str, torch.Tensor]:
    """The stored parameters, by that code's names."""
    return {key.removeprefix("param/"): t for key, t in read_golden(name)[0].items() if key.startswith("param/")}


def golden_state(golden: dict[str, torch.Tensor], label: str) -> torch.Tensor:
    """What is stored for a lens site: `z_L/0.1` for "H0.L1", `z_H/0` for "H0.commit"."""
    if label == "embed":
        return golden["input_embedding"]
    cycle, step = label.removeprefix("H").split(".")
    return golden[f"z_H/{cycle}" if step == "commit" else f"z_L/{cycle}.{step.removeprefix('L')}"]


@torch.no_grad()
def step_errors(net: HookedRecursiveTransformer, golden: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest difference after each step that starts from the stored state before it, and of the logits."""
    errors = {}
    for site, following in zip(net.lens_sites, net.lens_sites[1:], strict=False):
        seen = {}
        with net.hooks(fwd_hooks=[(following.hook_name, lambda state, seen=seen, **_: seen.update(state=state))]):
            before = [golden_state(golden, needed.label) for needed in sites_to_resume(net.lens_sites, site.label)]
            net(start_at=site.label, residual=torch.cat(before, dim=1).to(net.dtype))
        errors[following.label] = float((seen["state"] - golden_state(golden, following.label)).abs().max())
    last = net.lens_sites[-1].label
    logits = net(start_at=last, residual=golden_state(golden, last).to(net.dtype))
    return {**errors, "logits": float((logits - golden["logits"]).abs().max())}
