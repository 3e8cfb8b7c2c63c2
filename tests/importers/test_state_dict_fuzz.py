"""Damaged state dicts and settings: an InputError of one line, or a net with finite logits; never anything else."""

from functools import cache

import hypothesis.strategies as st
import pytest
import torch
from foreign_nets import hooked_transformer, in_memory, native_golden, original_state, with_buffers
from hypothesis import given, settings

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options
from circuit_lab.importers.legacy_transformer_lens import LEGACY_TRANSFORMER_LENS
from circuit_lab.importers.native_transformer_lens import NATIVE_TRANSFORMER_LENS
from circuit_lab.importers.original_grokking import ORIGINAL_GROKKING

IMPORTERS = {
    importer.name: importer for importer in (LEGACY_TRANSFORMER_LENS, NATIVE_TRANSFORMER_LENS, ORIGINAL_GROKKING)
}
JUNK = [
    None,
    3,
    -1,
    0,
    2.5,
    float("nan"),
    "x",
    "LN",
    "a\nb",
    [],
    {},
    [1],
    True,
    10**400,
    10**5000,
    torch.ones(2),
    "\ud800",
]
SHAPES = [(), (0,), (12,), (5, 12), (12, 5), (3, 12, 5), (8, 12), (1, 1, 1, 1)]
DTYPES = [torch.float64, torch.float16, torch.bool, torch.int64, torch.complex64, torch.float8_e4m3fn]


@cache
def whole(name):
    """State dict and settings of one net per dialect."""
    if name == "transformer-lens-native":
        return native_golden()[:2]
    if name == "original-grokking":
        config = {"p": 7, "d_model": 12, "num_heads": 3, "act_type": "ReLU", "seed": 0}
        return original_state(), config
    state, config, *_ = hooked_transformer("causal_ln_2layer")
    return with_buffers(state, n_ctx=4, n_layers=2), config


@st.composite
def damaged(draw, name):
    """A source with one to three things in it changed."""
    state, config = (dict(part) for part in whole(name))
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["drop", "rename", "junk", "shape", "turn", "setting", "no setting"]))
        key = draw(st.sampled_from(sorted(state)))
        if kind == "drop":
            del state[key]
        elif kind == "rename":
            state[draw(st.text(max_size=8)) + key[draw(st.integers(0, 9)) :]] = state.pop(key)
        elif kind == "junk":
            state[key] = draw(st.sampled_from(JUNK))
        elif kind == "shape":
            state[key] = torch.ones(draw(st.sampled_from(SHAPES))).to(draw(st.sampled_from(DTYPES)))
        elif kind == "turn" and isinstance(state[key], torch.Tensor) and state[key].ndim >= 2:
            state[key] = state[key].transpose(-1, -2)
        elif kind == "setting":
            config[draw(st.sampled_from([*config, "eps", "zzz", "attn_scale", "n_key_value_heads"]))] = draw(
                st.sampled_from(JUNK)
            )
        else:
            config.pop(draw(st.sampled_from([*config, "nothing"])), None)
    entry = draw(st.sampled_from(["model", "state_dict", "weights", None]))
    epoch = draw(st.sampled_from([*JUNK, 7]))
    return in_memory(state if entry is None else {entry: state, "config": config, "epoch": epoch, "epochs": [epoch]})


@pytest.mark.parametrize("name", IMPORTERS)
def test_damage_is_an_input_error(name):
    importer = IMPORTERS[name]
    seen = {True: 0, False: 0}

    @settings(max_examples=100, derandomize=True, database=None)
    @given(damaged(name))
    def check(source):
        assert importer.recognises(source) in (True, False)
        try:
            result = importer.read(source, Options())
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            seen[False] += 1
        else:
            tokens = torch.zeros((1, result.net.cfg.n_ctx), dtype=torch.long)
            assert result.net(tokens).isfinite().all()
            assert all("\n" not in note for note in (*result.inferred, *result.ignored))
            seen[True] += 1

    check()
    assert seen[False] > 30  # most damage is noticed
