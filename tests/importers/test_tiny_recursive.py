"""Tiny recursive models: the golden nets step by step, every way their weights are saved, and all that is refused."""

import json
import math

import pytest
import torch
import yaml
from recursive_nets import GOLDEN_NAMES, golden_parameters, read_golden, step_errors
from safetensors.torch import save_file

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options, Source
from circuit_lab.importers.ledger import Ledger
from circuit_lab.importers.source import read_source
from circuit_lab.importers.tiny_recursive import TINY_RECURSIVE, read, recognises

ATTENTION, POSITION_MLP = GOLDEN_NAMES
QKV, O_PROJ = (f"L_level.layers.0.self_attn.{name}.weight" for name in ("qkv_proj", "o_proj"))
GATE_UP, DOWN = (f"L_level.layers.1.mlp.{name}.weight" for name in ("gate_up_proj", "down_proj"))


def settings_of(name, **changes):
    """The golden net's settings, without those changed to None."""
    settings = {**read_golden(name)[1], **changes}
    return {key: value for key, value in settings.items() if value is not None}


def imported(folder, name=ATTENTION, *, state=None, settings=None, content=None, file="weights", options=None):
    """Import what torch.save wrote into a folder, with config.json beside it."""
    path = folder / file
    torch.save(content if content is not None else state if state is not None else golden_parameters(name), path)
    if settings != {}:
        (folder / "config.json").write_text(json.dumps(settings if settings is not None else settings_of(name)))
    return read(read_source(path), options if options is not None else Options())


def refused(folder, match, **arguments):
    with pytest.raises(InputError, match=match) as error:
        imported(folder, **arguments)
    assert "\n" not in str(error.value)


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_every_step_equals_the_golden_one(tmp_path, name):
    """Tolerances as in tests/nets/test_recursive_golden.py, which says why each step starts from the stored one."""
    result = imported(tmp_path, name)
    golden, _ = read_golden(name)
    assert not result.net.training
    assert result.net.dtype == torch.float32
    assert max(step_errors(result.net, golden).values()) < 3e-5
    errors = step_errors(result.net.double(), golden)
    assert len(errors) == 9
    assert max(errors.values()) < 1e-5
    _, cache = result.net.float().run_with_cache(golden["tokens"], names_filter="hook_input")
    assert torch.equal(cache["hook_input"], golden["input_embedding"])


def test_what_is_said_of_the_golden_nets(tmp_path):
    result = imported(tmp_path)
    assert result.net.cfg.in_words == (
        "recursive transformer, 2 x (3 + 1) steps of 2 block(s), width 16, 2 heads, positions rotary, prefix of 2"
    )
    assert result.inferred == (
        "eps = 1e-05 (no config says it; that code's default)",
        "rotary_base = 10000 (no config says it; that code's default)",
        "the last 16 numbers of the prefix are 0 (puzzle_emb.weights has 16; that code adds them)",
    )
    assert result.ignored == (
        "q_head.bias, q_head.weight: the halting head, which reads z_H and does not change the logits",
    )
    assert result.step is None
    by_mlp = imported(tmp_path, POSITION_MLP, settings=settings_of(POSITION_MLP, pos_encodings="rope"))
    assert (by_mlp.net.cfg.positions, by_mlp.net.cfg.n_heads) == ("none", 0)
    assert 'positions = "none" (token mixing by an MLP reads no rotary angles)' in by_mlp.inferred


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.model.inner.", "model._orig_mod.inner.", "model.inner.", "inner.", "module.model.inner."]
)
def test_whatever_wrapped_the_net(tmp_path, prefix):
    plain, state = golden_parameters(ATTENTION), prefixed(golden_parameters(ATTENTION), prefix)
    assert recognises(Source(tmp_path, state))
    ours, expected = (imported(tmp_path, state=weights).net.unique_state_dict() for weights in (state, plain))
    assert all(torch.equal(ours[name], weight) for name, weight in expected.items())


def test_a_safetensors_file_and_a_step_in_the_name(tmp_path):
    save_file(golden_parameters(POSITION_MLP), tmp_path / "step_1234.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(settings_of(POSITION_MLP)))
    source = read_source(tmp_path / "step_1234.safetensors")
    assert recognises(source)
    result = read(source, Options())
    assert result.step == 1234
    assert result.inferred[0] == "step = 1234 (the file's name)"
    assert read(source, Options(step=1234)).step == 1234
    with pytest.raises(InputError, match="holds one net of step 1234, but step = 7 is asked for"):
        read(source, Options(step=7))


def test_a_learned_position_and_no_prefix(tmp_path):
    """Positions are in the weights, so neither they nor the length need a setting."""
    state = golden_parameters(ATTENTION)
    del state["puzzle_emb.weights"]
    state["embed_pos.embedding_weight"] = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    settings = settings_of(ATTENTION, pos_encodings=None, puzzle_emb_len=None, puzzle_emb_ndim=None, seq_len=None)
    net = imported(tmp_path, state=state, settings=settings).net
    assert (net.cfg.positions, net.cfg.n_prefix, net.cfg.n_ctx) == ("learned", 0, 5)
    _, cache = net.run_with_cache(read_golden(ATTENTION)[0]["tokens"])
    token = state["embed_tokens.embedding_weight"][read_golden(ATTENTION)[0]["tokens"][2, 3]]
    expected = 0.707106781 * (token + state["embed_pos.embedding_weight"][3]) * math.sqrt(16)
    torch.testing.assert_close(cache["hook_input"][2, 3], expected)


def test_the_prefix_fills_as_many_positions_as_it_has_numbers_for(tmp_path):
    state = golden_parameters(ATTENTION)
    state["puzzle_emb.weights"] = torch.arange(1.0, 41.0)[None]
    net = imported(tmp_path, state=state, settings=settings_of(ATTENTION, puzzle_emb_len=0, puzzle_emb_ndim=40)).net
    assert net.cfg.n_prefix == 3
    assert net.embed.W_prefix.flatten().tolist() == [*range(1, 41), *[0] * 8]


@pytest.mark.parametrize("given", ["puzzle_emb_len", "seq_len"])
def test_a_length_follows_from_the_other_one(tmp_path, given):
    other = {"puzzle_emb_len": "seq_len", "seq_len": "puzzle_emb_len"}[given]
    net = imported(tmp_path, POSITION_MLP, settings=settings_of(POSITION_MLP, **{other: None})).net
    assert (net.cfg.n_prefix, net.cfg.n_ctx) == (2, 5)


def test_rounds_of_evaluation_are_more_cycles(tmp_path):
    """Carried on by hand: the second round starts from the streams that the first one left."""
    once = imported(tmp_path).net
    thrice = imported(tmp_path, settings=settings_of(ATTENTION, halt_max_steps=3))
    assert thrice.net.cfg.h_cycles == 6
    assert any(line.startswith("h_cycles = 3 x 2 (halt_max_steps = 3") for line in thrice.inferred)
    tokens = read_golden(ATTENTION)[0]["tokens"][:1]
    net = once.double()
    x, z_L, z_H = net._input(tokens), net.z_L_init, net.z_H_init
    for _round in range(3):
        for _cycle in range(2):
            for _step in range(3):
                z_L = net._step(0, z_L + z_H + x, net._rotation(7))
            z_H = net._step(0, z_H + z_L, net._rotation(7))
    torch.testing.assert_close(thrice.net.double()(tokens), net.logits_at(z_H[:, 2:]), rtol=0, atol=1e-6)


def average_of(state):
    """What the training code's helper keeps: the parameters, halved here, but no buffers."""
    buffers = ("H_init", "L_init", "puzzle_emb.weights")
    return {name: tensor / 2 for name, tensor in state.items() if name not in buffers}


@pytest.mark.parametrize("entry", ["ema_helper", "ema"])
def test_both_copies_in_one_file(tmp_path, entry):
    state = golden_parameters(ATTENTION)
    wrapped = prefixed(state, "_orig_mod.model.inner.")
    average = prefixed(average_of(state), "_orig_mod.model.inner.")
    content = {"model": wrapped, "optimizers": [{"state": {}}], "step": 77, entry: average}
    assert recognises(Source(tmp_path, content))
    for weights, factor in (("auto", 0.5), ("ema", 0.5), ("raw", 1.0)):
        result = imported(tmp_path, content=content, options=Options(weights=weights))
        assert torch.equal(result.net.W_E, factor * state["embed_tokens.embedding_weight"])
        assert torch.equal(result.net.z_H_init, state["H_init"])
        assert result.step == 77
        assert "entries optimizers: state of the optimiser" in result.ignored
    assert f"entry {entry}: the moving average, for the trained weights are asked for" in result.ignored
    average_taken = imported(tmp_path, content=content)
    assert average_taken.inferred[:2] == (
        f"weights from {entry} (the moving average, which that code evaluates)",
        "H_init, L_init, puzzle_emb.weights from model (the average has only what is trained by gradient)",
    )


def test_a_run_that_saves_the_average_alone(tmp_path):
    settings = {"arch": settings_of(ATTENTION), "ema": True, "lr": 4e-5}
    result = imported(tmp_path, settings=settings, options=Options(weights="ema"))
    note = "the moving average of the weights (the config says ema = true, and that code saves it alone)"
    assert result.inferred[0] == note
    refused(
        tmp_path,
        'moving average of the weights alone, by its config; weights = "raw"',
        settings=settings,
        options=Options(weights="raw"),
    )


def test_the_training_codes_own_config(tmp_path):
    """As its all_config.yaml has them: positions "None" as text, and other keys in `arch` that change nothing."""
    arch = settings_of(POSITION_MLP, seq_len=None, vocab_size=None, causal=False, pos_encodings="None")
    arch |= {"loss": {"name": "losses@ACTLossHead"}, "name": "trm@Model", "no_ACT_continue": True}
    (tmp_path / "all_config.yaml").write_text(yaml.dump({"arch": arch, "ema": False, "epochs": 1100, "beta1": 0.9}))
    (tmp_path / "config.json").write_text('{"H_cycles": 5}')
    assert imported(tmp_path, POSITION_MLP, settings={}).net.cfg.h_cycles == 2
    given = tmp_path / "given.json"
    given.write_text('{"H_cycles": 4}')
    assert imported(tmp_path, POSITION_MLP, settings={}, options=Options(config=given)).net.cfg.h_cycles == 4


def test_types_of_numbers(tmp_path):
    state = golden_parameters(ATTENTION)
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    result = imported(tmp_path, state=half)
    assert result.net.dtype == torch.float32
    assert torch.equal(result.net.W_E, state["embed_tokens.embedding_weight"].bfloat16().float())
    assert "dtype = float32 (the file has bfloat16)" in result.inferred
    mixed = {**state, "H_init": state["H_init"].bfloat16(), "L_init": state["L_init"].double()}
    assert imported(tmp_path, state=mixed).net.dtype == torch.float64
    assert imported(tmp_path, state=state).net.z_L_init.dtype == torch.float32


def changed(name=ATTENTION, **tensors):
    """The golden weights with some replaced, or left out where None."""
    state = {**golden_parameters(name), **{key.replace("__", "."): tensor for key, tensor in tensors.items()}}
    return {key: tensor for key, tensor in state.items() if tensor is not None}


def with_entry(key, tensor, name=ATTENTION):
    return {**golden_parameters(name), key: tensor}


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        (
            "lm_head.weight",
            torch.ones(16, 23),
            r"lm_head.weight must be \[d_vocab = 23, d_model = 16\], got \[16, 23\]",
        ),
        (QKV, torch.ones(16, 48), r"qkv_proj.weight must be \[3 x d_model = 48, d_model = 16\].*it looks transposed"),
        (GATE_UP, torch.ones(16, 512), r"mlp.gate_up_proj.weight must be \[2 x neurons = 512.*it looks transposed"),
        (DOWN, torch.ones(256, 16), r"mlp.down_proj.weight must be \[d_model = 16, neurons = 256\].*transposed"),
        (O_PROJ, torch.ones(16), r"o_proj.weight must be \[d_model = 16, n_heads \* d_head = 16\], got \[16\]"),
        ("H_init", torch.ones(1, 16), r"H_init must be \[d_model = 16\], got \[1, 16\]"),
        ("embed_tokens.embedding_weight", torch.ones(16), r"must be a matrix with rows and columns, got \[16\]"),
        ("puzzle_emb.weights", torch.ones(3, 16), "holds 3 prefixes, one for each kind of puzzle"),
        ("L_level.layers.0.self_attn.q_norm", torch.ones(8), r"q_norm \[8\] is not part of the tiny recursive model"),
        ("lm_head.wieght", torch.ones(2), "the nearest name to lm_head.wieght is lm_head.weight"),
        (
            "H_level.layers.0.mlp.down_proj.weight",
            torch.ones(2, 2),
            "is not part of .*; the nearest name .* is L_level",
        ),
        (
            "L_level.layers.4.mlp.down_proj.weight",
            torch.ones(2, 2),
            "L_level.layers.2.mlp.gate_up_proj.weight is missing",
        ),
        ("L_level.layers.x.mlp", torch.ones(2), "L_level.layers.x is no block"),
        ("L_level.layers.99999.mlp", torch.ones(2), "L_level.layers.99999 is no block"),
        (DOWN, torch.full((16, 256), float("nan")), "blocks.1.mlp.W_out are NaN or infinite"),
        (DOWN, torch.ones(16, 256, dtype=torch.int64), "blocks.1.mlp.W_out is of torch.int64"),
        (DOWN, None, "L_level.layers.1.mlp.down_proj.weight is missing, so this is no whole tiny recursive model"),
        ("L_init", None, "L_init is missing"),
        ("model.L_init", torch.ones(16), "L_init is there twice, once as"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, key, tensor, message):
    state = {name: t for name, t in with_entry(key, tensor).items() if t is not None}
    refused(tmp_path, message, state=state, settings=settings_of(ATTENTION, L_layers=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, "hidden_size = 32 contradicts the tensors, by which it is 16"),
        ({"vocab_size": 24}, "vocab_size = 24 contradicts the tensors, by which it is 23"),
        ({"L_layers": 3}, "L_layers = 3 contradicts the tensors, by which it is 2"),
        ({"mlp_t": True}, "mlp_t = True contradicts the tensors, by which it is False"),
        ({"puzzle_emb_ndim": 32}, "puzzle_emb_ndim = 32 contradicts the tensors, by which it is 16"),
        ({"expansion": 40}, r"mlp.gate_up_proj.weight must be \[2 x neurons = 1024, d_model = 16\], got \[512, 16\]"),
        ({"num_heads": 3}, "n_heads must divide d_model = 16, got 3"),
        ({"num_heads": 16}, "d_head = d_model / n_heads must be even, got 1"),
        ({"pos_encodings": "learned"}, "pos_encodings = 'learned', but .* has no embed_pos.embedding_weight"),
        ({"pos_encodings": "alibi"}, 'pos_encodings must be "rope", "learned" or "none", got \'alibi\''),
        (
            {"H_cycles": None, "num_heads": None},
            "the weights do not say H_cycles, num_heads, and neither does .*config.j",
        ),
        (
            {"pos_encodings": None, "seq_len": None},
            r'do not say pos_encodings, seq_len.*\{"pos_encodings": ..., "seq_le',
        ),
        ({"puzzle_emb_len": None}, "the weights do not say puzzle_emb_len"),
        ({"H_cycles": 0}, "config.json: H_cycles: Input should be greater than or equal to 1, got 0"),
        ({"H_cycles": "2"}, "config.json: H_cycles: Input should be a valid integer, got '2'"),
        ({"H_cycles": 10**6}, "h_cycles = 1000000, l_cycles = 3 and n_blocks = 2 make 8000000 layers"),
        ({"expansion": 10**6}, "config.json: expansion: Input should be less than or equal to 1024"),
        ({"L_cycle": 3}, "L_cycle is no setting of a tiny recursive model; the nearest name is L_cycles"),
        ({"adaptive_depth_controller": True}, "adaptive_depth_controller is no setting of a tiny recursive model"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, changes, message):
    refused(tmp_path, message, settings=settings_of(ATTENTION, **changes))


def test_lengths_that_do_not_add_up(tmp_path):
    settings = settings_of(POSITION_MLP, seq_len=6)
    refused(
        tmp_path, r"must add up to the 7 positions of the tensors, got 2 \+ 6", name=POSITION_MLP, settings=settings
    )
    settings = settings_of(ATTENTION, puzzle_emb_len=1, puzzle_emb_ndim=None)
    state = with_entry("puzzle_emb.weights", torch.ones(1, 24))
    refused(tmp_path, "puzzle_emb_len = 1 holds 1 x 16 numbers, but puzzle_emb.weights", state=state, settings=settings)
    state = changed(puzzle_emb__weights=None)
    settings = settings_of(ATTENTION, puzzle_emb_ndim=None)
    refused(tmp_path, "puzzle_emb_len = 2, but .* has no puzzle_emb.weights", state=state, settings=settings)


def test_without_any_config(tmp_path):
    refused(
        tmp_path, r"do not say H_cycles, L_cycles, num_heads, pos_encodings, .*the config \(there is no", settings={}
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "config.json"),
        ("config.json", "[1]", "must hold settings by name, got list"),
        ("config.json", '{"arch": 3}', "arch must hold settings by name, got 3"),
        ("config.json", '{"H_cycles": NaN}', "H_cycles: Input should be a"),
        ("all_config.yaml", "a: [", "all_config.yaml is no YAML"),
        ("all_config.yaml", "a: 2020-99-99", "all_config.yaml is no YAML"),
        (
            "all_config.yaml",
            "a: !!python/object/apply:os.system ['true']",
            "is no YAML: could not determine a construct",
        ),
        ("all_config.yaml", "a: " + "[" * 2000, "all_config.yaml is no YAML"),
        ("all_config.yaml", "\x00", "all_config.yaml is no YAML"),
        ("all_config.yaml", "1: 2", "must hold settings by name"),
        ("all_config.yaml", "", "must hold settings by name, got None"),
        ("all_config.yaml", "#" * (1 << 21), "all_config.yaml"),
    ],
)
def test_config_files_that_are_none(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    refused(tmp_path, message, settings={})


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"model": "weights", "scheduler": 1}, {}, "scheduler is no entry of this format; it has model, ema_helper"),
        ({"model": "weights", "step": -1}, {}, "step must be a whole number of at least 0, got int"),
        ({"model": "weights", "ema": {}, "ema_helper": {}}, {}, "holds two moving averages, ema_helper and ema"),
        ({"model": "weights"}, {"weights": "ema"}, 'holds no moving average of the weights; leave weights = "ema" out'),
        ({"model": "weights", "ema": [1]}, {}, "entry ema: expected a dict of tensors by name, got list"),
        ({"model": "weights", "step": 3}, {"step": 4}, "holds one net of step 3, but step = 4 is asked for"),
        ("weights", {"weights": "ema"}, 'holds one copy of the weights, and no config says "ema": true'),
        ("weights", {"step": 4}, "holds one net without a step, but step = 4 is asked for"),
        ("weights", {"n_passes": 2}, "n_passes = 2 is for GPT-2 folders"),
        ({"a": 1}, {}, "every entry must be a tensor with a name, got int a; save model.state_dict"),
        ([1], {}, "expected a dict of tensors by name, got list"),
    ],
)
def test_containers_and_options_that_do_not_fit(tmp_path, content, options, message):
    state = golden_parameters(ATTENTION)
    content = state if content == "weights" else content
    if isinstance(content, dict) and content.get("model") == "weights":
        content = {**content, "model": state}
    refused(tmp_path, message, content=content, options=Options(**options))


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"model": 3},
        {1: torch.ones(1)},
        {"embed.W_E": torch.ones(3, 4), "blocks.0.attn.W_Q": torch.ones(2, 4, 2)},
        {"embed_tokens.embedding_weight": torch.ones(3, 4), "lm_head.weight": torch.ones(3, 4)},
    ],
    ids=str,
)
def test_what_is_not_recognised(tmp_path, content):
    assert not recognises(Source(tmp_path, content))


def test_the_importer_in_the_table():
    assert TINY_RECURSIVE.name == "tiny-recursive"
    assert TINY_RECURSIVE.read is read


def test_every_tensor_is_accounted_for(tmp_path, monkeypatch):
    """Nothing is taken behind the ledger's back: what it took and ignored is the whole file."""
    ledgers = []
    close = Ledger.close
    monkeypatch.setattr(Ledger, "close", lambda self, **known: (ledgers.append(self), close(self, **known)))
    imported(tmp_path)
    assert ledgers[0]._accounted == golden_parameters(ATTENTION).keys()
