"""Against HookedTransformer of TransformerLens 3.9, the last line that had it.

The golden nets had float64 weights but a config that still said float32, and that version rounded every norm's
quotient to its config's type. So nets without norms agree to 1e-10 as they are; nets with norms do so when the same
rounding is put in by a hook, and differ by float32 rounding (1e-6) otherwise.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from circuit_lab.nets import SharedTransformerConfig, build_net

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = ["bidirectional_rms_2layer", "causal_ln_2layer", "modular_1layer", "tied_cycle_4layer", "tied_universal_3layer"]


def load_golden(name, **changes):
    path = GOLDEN / f"ht39_{name}.safetensors"
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["config"])
    del settings["made_with"]
    n_layers = settings.pop("n_layers")
    settings["layer_map"] = settings["layer_map"] or list(range(n_layers))
    tensors = load_file(path)
    net = build_net(SharedTransformerConfig(**{**settings, "unembed_bias": True, **changes})).double().eval()
    state = {key.removeprefix("param/"): value for key, value in tensors.items() if key.startswith("param/")}
    net.load_state_dict(state, strict=changes == {})
    return net, tensors


def round_to_float32(activation, hook):
    return activation.float().double()


def round_norms(net):
    net.add_hook(lambda name: name.endswith("hook_normalized"), round_to_float32)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_every_stored_activation(name):
    net, golden = load_golden(name)
    round_norms(net)
    logits, cache = net.run_with_cache(golden["tokens"])
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=1e-10)
    stored = {key.removeprefix("cache/"): value for key, value in golden.items() if key.startswith("cache/")}
    assert len(stored) >= 7 * net.cfg.n_layers
    for hook_name, expected in stored.items():
        if hook_name.endswith("hook_normalized"):  # stored before the rounding
            expected = expected.float().double()
        torch.testing.assert_close(
            cache[hook_name], expected, rtol=0, atol=1e-10, msg=lambda m, h=hook_name: f"{h}: {m}"
        )


@pytest.mark.parametrize("name", NAMES)
def test_logits_without_the_rounding(name):
    net, golden = load_golden(name)
    atol = 1e-10 if net.cfg.normalization_type is None else 1e-6
    torch.testing.assert_close(net(golden["tokens"]), golden["logits"], rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "change", "at_least"),
    [
        ("causal_ln_2layer", {"act_fn": "gelu_new"}, 1e-5),
        ("causal_ln_2layer", {"eps": 2e-5}, 5e-6),
        ("causal_ln_2layer", {"attention_dir": "bidirectional"}, 0.1),
        ("causal_ln_2layer", {"norm_position": "post"}, 0.1),
        ("tied_cycle_4layer", {"normalization_type": "RMS"}, 0.1),
    ],
)
def test_tolerance_would_catch_another_computation(name, change, at_least):
    net, golden = load_golden(name, **change)
    assert (net(golden["tokens"]) - golden["logits"]).abs().max() > at_least
