"""GPT-2 folders: the fixtures are written by transformers and torch, and the logits are transformers' own."""

import json
import shutil

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options, Source
from circuit_lab.importers.gpt2_folder import GPT2_FOLDER
from circuit_lab.importers.gpt2_tokens import TaskRows, count_answers_outside
from circuit_lab.tasks import TwoHopConfig, build_task

SIZES = {"n_layer": 3, "n_head": 2, "n_embd": 12, "n_inner": 20, "vocab_size": 64, "n_positions": 7}
BASE = ("<|endoftext|>", "e", "r", "er", "<", ">", "_", "a")
SPECIAL = ("<mask>", "</a>", "<q>")


def make_model(*, seed=0, **changes):
    """A GPT-2 whose every parameter is random and non-zero."""
    model = GPT2LMHeadModel(
        GPT2Config(**{**SIZES, "bos_token_id": 0, "eos_token_id": 0, "layer_norm_epsilon": 1e-3, **changes})
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + 1.0 * ("ln_" in name))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2") / "saved"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


def as_bin(folder, state, **changes):
    """The folder as older versions of transformers write it: a torch file in place of safetensors."""
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return edit(folder, **changes)


def edit(folder, *, without=(), **changes):
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if key not in without}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def read(folder, **options):
    return GPT2_FOLDER.read(Source(folder, None), Options(**options))


def make_tokens(n=9, *, pos=7, vocab=64):
    return torch.randint(vocab, (n, pos), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def difference(net, model, tokens):
    return float((net(tokens) - model(tokens).logits).abs().max())


def test_logits_are_those_of_transformers(saved, model):
    imported = read(saved)
    net = imported.net
    assert net.cfg.layer_map == (0, 1, 2)
    assert (net.cfg.n_heads, net.cfg.d_head, net.cfg.d_mlp, net.cfg.n_ctx, net.cfg.eps) == (2, 6, 20, 7, 1e-3)
    assert not net.training
    assert difference(net, model, make_tokens()) < 1e-5
    assert difference(net, model, make_tokens(pos=3)) < 1e-5
    assert any("W_U = W_E transposed" in sentence for sentence in imported.inferred)
    assert any("n_passes = 1" in sentence for sentence in imported.inferred)
    assert any("generation_config.json" in sentence for sentence in imported.ignored)
    assert imported.step is None


def test_torch_files_read_alike_with_masks_and_without_prefix(folder, model):
    state = dict(model.transformer.state_dict())
    mask = torch.ones(7, 7, dtype=torch.uint8).tril()[None, None]
    for layer in range(3):
        state |= {f"h.{layer}.attn.bias": mask, f"h.{layer}.attn.masked_bias": torch.tensor(-1e4)}
    imported = read(as_bin(folder, {**state, "lm_head.weight": model.lm_head.weight.detach()}))
    assert difference(imported.net, model, make_tokens()) < 1e-5
    assert sum("causal mask" in sentence for sentence in imported.ignored) == 3


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "gelu_pytorch_tanh"])
def test_untied_nets_and_other_activations(tmp_path, activation):
    model = make_model(tie_word_embeddings=False, activation_function=activation, n_inner=None, seed=5)
    model.save_pretrained(tmp_path)
    net = read(tmp_path).net
    assert net.cfg.d_mlp == 48
    assert not torch.equal(net.W_U, net.W_E.T)
    assert difference(net, model, make_tokens()) < 1e-5


def test_layers_applied_twice_are_a_model_of_twice_as_many(saved, model):
    unrolled = make_model(n_layer=6)
    state = model.state_dict()
    for name in unrolled.state_dict():
        if ".h." in name:
            layer = name.split(".")[2]
            state[name] = model.state_dict()[name.replace(f".h.{layer}.", f".h.{int(layer) % 3}.")]
    unrolled.load_state_dict(state)
    twice = read(saved, n_passes=2)
    assert twice.net.cfg.layer_map == (0, 1, 2, 0, 1, 2)
    assert sum(p.numel() for p in twice.net.parameters()) == sum(p.numel() for p in read(saved).net.parameters())
    assert difference(twice.net, unrolled, make_tokens()) < 1e-5
    assert difference(read(saved).net, unrolled, make_tokens()) > 1e-2


def test_recurrence_that_the_config_states(folder):
    assert read(edit(folder, add_recurrence=True)).net.cfg.n_layers == 6
    assert read(folder, n_passes=2).net.cfg.n_layers == 6
    with pytest.raises(InputError, match="add_recurrence = true means n_passes = 2, got n_passes = 3; leave n_passes"):
        read(folder, n_passes=3)
    with pytest.raises(InputError, match="add_recurrence = false means n_passes = 1, got n_passes = 2"):
        read(edit(folder, add_recurrence=False), n_passes=2)


def test_shards(tmp_path, model):
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert difference(read(tmp_path).net, model, make_tokens()) < 1e-5
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    name = "transformer.h.1.ln_1.weight"
    for shard, message in [
        ("../model.safetensors", "is no file name in the folder"),
        ("sub/model.safetensors", "is no file name in the folder"),
        ("", "is no file name in the folder"),
        ("model-9.safetensors", "its shard 'model-9.safetensors' is missing"),
        (next(s for s in index["weight_map"].values() if s != index["weight_map"][name]), "index does not say that"),
    ]:
        wrong = {**index, "weight_map": {**index["weight_map"], name: shard}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=message):
            read(tmp_path)
    extra = {**index, "weight_map": {**index["weight_map"], "lm_head.bias": index["weight_map"][name]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(extra))
    with pytest.raises(InputError, match="'lm_head.bias' is in no shard"):
        read(tmp_path)


@pytest.mark.parametrize("dtype, ours", [(torch.float16, torch.float32), (torch.float64, torch.float64)])
def test_numbers_of_other_types(tmp_path, dtype, ours):
    model = make_model(seed=2).to(dtype)
    model.save_pretrained(tmp_path)
    imported = read(tmp_path)
    assert imported.net.dtype == ours
    assert difference(imported.net, model.to(ours), make_tokens()) < 1e-5
    assert any("the file has float16" in sentence for sentence in imported.inferred) == (dtype == torch.float16)


def test_step_is_in_the_folders_name(saved, tmp_path):
    assert read(shutil.copytree(saved, tmp_path / "checkpoint-50000")).step == 50000
    assert read(shutil.copytree(saved, tmp_path / "checkpoint-700-epoch-2")).step == 700
    assert read(shutil.copytree(saved, tmp_path / "checkpoint-²")).step is None


CONFIG_ERRORS = [
    ({"n_layers": 3}, 'unknown key "n_layers" = 3; the nearest known key is n_layer'),
    ({"scale_attn_weights": False}, "scale_attn_weights must be true, got false"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be false, got true"),
    ({"add_cross_attention": True}, "add_cross_attention must be false"),
    ({"no_ln": True}, "no_ln must be false"),
    ({"re_embed": True}, "re_embed must be false"),
    ({"share_mlp": True}, "share_mlp must be false"),
    ({"n_head": 5}, "n_embd = 12 is not a multiple of n_head = 5"),
    ({"n_head": "2"}, 'n_head: .*got "2"'),
    ({"n_layer": 10**9}, "has tensors of 3 layers, but n_layer = 1000000000"),
    ({"n_positions": 10**6}, "n_positions: .*4096"),
    ({"n_positions": 8}, r"wpe.weight must be \[n_positions = 8, d_model = 12\], got \[7, 12\]"),
    ({"n_ctx": 8}, "n_ctx = 8 and n_positions = 7 must be equal"),
    ({"activation_function": "tanh"}, 'activation_function: .*got "tanh"'),
    ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon"),
    ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
    ({"n_inner": 21}, r"mlp.c_fc.weight must be \[d_model = 12, d_mlp = 21\], got \[12, 20\]"),
    ({"model_type": "gpt2_cycle"}, "a recurrence with two streams"),
    ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
    ({"vocab_size": 60}, r"wte.weight must be \[vocab_size = 60"),
]


@pytest.mark.parametrize("changes, message", CONFIG_ERRORS, ids=[str(changes) for changes, _ in CONFIG_ERRORS])
def test_config_errors(folder, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        read(edit(folder, **changes))
    assert "\n" not in str(caught.value)


def test_a_size_that_is_missing(folder):
    with pytest.raises(InputError, match="n_head: Field required"):
        read(edit(folder, without=("n_head",)))


def test_weights_that_are_no_gpt2(folder, model):
    state = model.state_dict()
    spoilt = {
        "stranger": ({**state, "transformer.h.0.attn.c_attn.weights": torch.ones(1)}, "nearest name .*c_attn.weight"),
        "missing": ({k: v for k, v in state.items() if "h.2.mlp.c_fc.bias" not in k}, "h.2.mlp.c_fc.bias is missing"),
        "turned": (
            {**state, "transformer.h.1.attn.c_attn.weight": state["transformer.h.1.attn.c_attn.weight"].T.contiguous()},
            r"3 x d_model = 36\], got \[36, 12\]; it looks transposed",
        ),
        "nan": ({**state, "transformer.wpe.weight": state["transformer.wpe.weight"] * torch.nan}, "NaN or infinite"),
        "integers": ({**state, "transformer.ln_f.bias": torch.ones(12, dtype=torch.int64)}, "is of torch.int64"),
        "mask": ({**state, "transformer.h.0.attn.bias": torch.ones(1, 1, 7, 7)}, "attn.bias is no causal mask"),
        "score": ({**state, "transformer.h.0.attn.masked_bias": torch.tensor(0.0)}, "must be at most -1000"),
        "untied": (
            {**state, "lm_head.weight": state["lm_head.weight"] + 1},
            "lm_head.weight differs from the embedding",
        ),
        "wrapped": ({"model": state}, "'model' is no tensor"),
    }
    as_bin(folder, {})
    for content, message in spoilt.values():
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(InputError, match=message):
            read(folder)


def test_infinite_lm_head_is_seen_when_untied(tmp_path):
    model = make_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[3, 4] = torch.inf
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="lm_head.weight are NaN or infinite"):
        read(tmp_path)


def test_options_that_a_folder_has_no_use_for(folder, tmp_path):
    for options, message in [
        ({"config": tmp_path / "c.json"}, "has its own config.json"),
        ({"weights": "ema"}, "one copy of the weights"),
        ({"step": 3}, "holds one checkpoint"),
    ]:
        with pytest.raises(InputError, match=message):
            read(folder, **options)


def test_files_outside_the_folder_are_refused(folder, tmp_path):
    outside = shutil.move(folder / "model.safetensors", tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of that folder"):
        read(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights; expected one of model.safetensors"):
        read(folder)


def test_recognises_by_content_alone(saved, folder, tmp_path):
    assert GPT2_FOLDER.recognises(Source(saved, None))
    assert not GPT2_FOLDER.recognises(Source(saved / "model.safetensors", {"wte.weight": torch.ones(2)}))
    assert not GPT2_FOLDER.recognises(Source(edit(folder, model_type="llama"), None))
    for content in (b"", b"\xff\xfe", b"[1]", b"null", b"{" * 100_000, b'{"model_type": ["gpt2"]}'):
        (folder / "config.json").write_bytes(content)
        assert not GPT2_FOLDER.recognises(Source(folder, None))
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder / "config.json")
    assert not GPT2_FOLDER.recognises(Source(folder, None))
    assert not GPT2_FOLDER.recognises(Source(tmp_path / "nothing", None))


def tokenizer_with(tokens):
    """A GPT-2 tokenizer with eight tokens of its own, to which the tokens are added as the two-hop codes do."""
    tokenizer = GPT2Tokenizer(vocab={token: index for index, token in enumerate(BASE)}, merges=[("e", "r")])
    tokenizer.add_tokens(list(tokens))
    return tokenizer


@pytest.fixture(scope="module")
def tokens_in_file_order(small_task):
    """Entities last and special tokens between, so that no id is the task's own; there is no <pad>."""
    words = [token for token in small_task.vocab if token != "<pad>"]
    return [*reversed(words[20:]), *SPECIAL, *reversed(words[:20])]


@pytest.fixture(scope="module")
def with_tokens(saved, tokens_in_file_order, tmp_path_factory):
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("tokens") / "saved")
    tokenizer_with(tokens_in_file_order).save_pretrained(folder)
    return folder


def test_a_task_keeps_its_tokens_in_its_order(with_tokens, model, small_task, tokens_in_file_order):
    imported = read(with_tokens, task=small_task)
    net = imported.net
    assert (net.cfg.d_vocab, net.cfg.d_vocab_out) == (29, 29)
    tokenizer = tokenizer_with(tokens_in_file_order)
    queries = small_task.splits["test_ood"]
    texts = ["".join(small_task.vocab[token] for token in row) for row in queries.tokens.tolist()]
    theirs = torch.tensor(tokenizer(texts)["input_ids"])
    assert not torch.equal(theirs, queries.tokens)
    columns = torch.tensor([tokenizer.convert_tokens_to_ids(token) for token in small_task.vocab[:28]])
    with torch.no_grad():
        ours, expected = net(queries.tokens), model(theirs).logits[:, :, columns]
    assert float((ours[:, :, :28] - expected).abs().max()) < 1e-5
    assert any("<pad> = row 0, with which the folder pads" in sentence for sentence in imported.inferred)
    assert torch.equal(net.W_E[28], model.transformer.wte.weight[0])
    assert any("35 of 64 rows" in sentence for sentence in imported.ignored)


def test_answers_outside_the_task_are_counted(with_tokens, model, small_task, tokens_in_file_order):
    """Against a count in transformers alone, over all training items."""
    imported = read(with_tokens, task=small_task)
    tokenizer = tokenizer_with(tokens_in_file_order)
    own = set(tokenizer.convert_tokens_to_ids(list(small_task.vocab[:28])))
    chosen = small_task.training.sample(2000, generator=torch.Generator().manual_seed(0))
    n_outside = 0
    for n_tokens in (2, 3):
        rows = chosen[chosen.answer_position == n_tokens - 1].tokens[:, :n_tokens].tolist()
        texts = ["".join(small_task.vocab[token] for token in row) for row in rows]
        with torch.no_grad():
            top = model(torch.tensor(tokenizer(texts)["input_ids"])).logits[:, -1].argmax(-1)
        n_outside += sum(token not in own for token in top.tolist())
    n = len(chosen)
    assert 0 < n_outside < n
    assert any(f"of {n_outside} of {n} training queries ({n_outside / n:.1%})" in s for s in imported.inferred)


def test_no_answer_is_outside_when_the_task_has_every_token(with_tokens, small_task):
    net = read(with_tokens, task=small_task).net
    rows = TaskRows(tuple(range(29)), ())
    assert count_answers_outside(net, small_task, rows, net.W_U.T[:28]) == (0, min(2000, len(small_task.training)))


def test_older_token_files_say_the_same(with_tokens, tokens_in_file_order, saved, small_task, tmp_path):
    """`vocab.json` and `added_tokens.json`, as older versions write them, and `added_tokens_decoder` beside them."""
    folder = shutil.copytree(saved, tmp_path / "older")
    added = {token: index for index, token in enumerate(tokens_in_file_order, start=len(BASE))}
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(BASE)}))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {str(index): {"content": token} for token, index in added.items()}})
    )
    tokens = small_task.splits["test_id"].tokens
    with torch.no_grad():
        assert torch.equal(read(folder, task=small_task).net(tokens), read(with_tokens, task=small_task).net(tokens))


def test_padding_that_the_folder_lacks_is_never_the_answer(with_tokens, small_task, tmp_path):
    folder = edit(shutil.copytree(with_tokens, tmp_path / "copy"), eos_token_id=None)
    imported = read(folder, task=small_task)
    assert any("<pad> = zeros" in sentence for sentence in imported.inferred)
    assert torch.equal(imported.net.W_E[28], torch.zeros(12))
    torch.testing.assert_close(imported.net.W_U[:, 28], imported.net.W_U[:, :28].mean(dim=1))
    with torch.no_grad():
        assert not (imported.net(small_task.splits["test_ood"].tokens).argmax(-1) == 28).any()


def test_token_errors(with_tokens, small_task, tmp_path):
    folder = shutil.copytree(with_tokens, tmp_path / "copy")
    larger = build_task(TwoHopConfig(n_entities=24, n_relations=8, out_degree=8, ood_share=0.34, test_id_share=0.15))
    with pytest.raises(InputError, match=r"no token '<e_20>' \(4 of the task's 33 tokens are missing\)"):
        read(folder, task=larger)
    with pytest.raises(InputError, match="n_positions = 2, but the task's queries have 3"):
        model = make_model(n_positions=2)
        model.save_pretrained(folder)
        read(folder, task=small_task)
    for content, message in [
        ({"<e_0>": 64}, "the id of '<e_0>' must be a whole number below vocab_size = 64, got 64"),
        ({"<e_0>": -1}, "got -1"),
        ({"<e_0>": True}, "got True"),
        ({"<e_0>": 8}, "'<e_0>' has the id .* in another file"),
        ([1], "must hold a JSON object, got list"),
    ]:
        (folder / "added_tokens.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            read(folder, task=small_task)
    (folder / "added_tokens.json").unlink()
    for name, content, message in [
        ("tokenizer.json", {"model": {"vocab": [["a", 0.5]]}}, "must have model.vocab"),
        ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [3]}, "an added token must be an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<e_0>"}}}, "must be a token id, got 'x'"),
        ("tokenizer_config.json", {"added_tokens_decoder": 3}, "must be a JSON object, got int"),
    ]:
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            read(folder, task=small_task)
        (folder / name).write_text(before)


def test_a_folder_without_tokens_cannot_be_read_with_a_task(saved, small_task):
    with pytest.raises(InputError, match="has none of vocab.json, .*or load without a task"):
        read(saved, task=small_task)


def test_two_tokens_with_one_id(saved, small_task, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / "added_tokens.json").write_text(json.dumps({token: i // 2 for i, token in enumerate(small_task.vocab)}))
    with pytest.raises(InputError, match="two tokens of the task have the same id"):
        read(folder, task=small_task)
