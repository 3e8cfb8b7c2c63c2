"""GPT-2 folders of transformers, as the two-hop codes save them.

Sources: transformers' `GPT2LMHeadModel`, and the copies of it in GrokkedTransformer (Wang et al. 2024, arXiv
2405.15071) and IsGrokkingWorthwhile (arXiv 2601.09049). With d = d_model, per layer:

| theirs | shape | ours |
|---|---|---|
| ln_1, ln_2 | [d] | ln1, ln2 |
| attn.c_attn.weight | [d, 3 x d]: queries, keys, values, each head after head | W_Q, W_K, W_V [head, d, d_head] |
| attn.c_proj.weight | [head x d_head, d] | W_O [head, d_head, d] |
| mlp.c_fc.weight, mlp.c_proj.weight | [d, d_mlp], [d_mlp, d] | W_in, W_out |

and `wte`, `wpe`, `ln_f` are W_E, W_pos, ln_final; W_U is `lm_head` or, where they are tied, `wte` transposed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Imported, Importer, Options, Source
from circuit_lab.importers.gpt2_config import CONFIG, GPT2Settings, read_json, read_settings
from circuit_lab.importers.gpt2_tokens import (
    TOKEN_FILES,
    TaskRows,
    count_answers_outside,
    find_rows,
    keep_rows,
    read_token_ids,
)
from circuit_lab.importers.ledger import Ledger, first_few
from circuit_lab.importers.source import read_weights
from circuit_lab.nets import HookedSharedTransformer, SharedTransformerConfig, build_net
from circuit_lab.tasks import TwoHopTask
from circuit_lab.tasks.safe_files import check_inside, file_kind
from circuit_lab.training.checkpoint import check_finite

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which transformers looks for them."""
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "swish": "silu"}
_MAX_NAMED = 8


def _recognises(source: Source) -> bool:
    """Whether it is a folder whose `config.json` says GPT-2."""
    if source.content is not None:
        return False
    try:
        return read_json(source.path, CONFIG).get("model_type") in ("gpt2", "gpt2_cycle")
    except (InputError, OSError):
        return False


def _read(source: Source, options: Options) -> Imported:
    """Make the net; with a two-hop task, of the task's tokens alone, in the task's order."""
    folder, task = source.path, options.task
    _refuse_options(folder, options)
    settings = read_settings(folder)
    file, tensors = _read_tensors(folder)
    ledger = Ledger(tensors, place=str(file), layout="GPT-2")
    n_passes = _n_passes(folder, settings, options, ledger)
    weights, unembedding = _take_weights(ledger, settings)
    weights = ledger.in_one_dtype(weights)
    check_finite(weights, str(file))
    unembedding = weights["embed.W_E"] if unembedding is None else unembedding.to(weights["embed.W_E"].dtype)
    check_finite({"lm_head.weight": unembedding}, str(file))
    rows = None
    if isinstance(task, TwoHopTask):
        rows = find_rows(task, read_token_ids(folder, settings), settings, folder)
        weights["embed.W_E"] = keep_rows(weights["embed.W_E"], rows, mean=False)
    kept = unembedding if rows is None else keep_rows(unembedding, rows, mean=True)
    weights["unembed.W_U"] = kept.T
    net = _build(settings, weights, n_passes=n_passes)
    if rows is not None and isinstance(task, TwoHopTask):
        _note_rows(ledger, rows, settings)
        _note_answers_outside(ledger, net, task, rows, unembedding, folder)
    _note_unread_files(folder, file, ledger)
    return Imported(net, tuple(ledger.inferred), tuple(ledger.ignored), step=_step(folder, ledger))


def _refuse_options(folder: Path, options: Options) -> None:
    if options.config is not None:
        raise InputError(f"{folder} has its own {CONFIG}, so config = {options.config} is not read; leave it out")
    if options.weights != "auto":
        raise InputError(
            f"{folder} is a GPT-2 folder, which has one copy of the weights; leave out weights = {options.weights!r}"
        )
    if options.step is not None:
        raise InputError(f"{folder} holds one checkpoint; leave out step = {options.step}, or give another folder")


def _read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that transformers would load, and its tensors, those of all shards together."""
    for name in WEIGHT_FILES:
        if file_kind(folder / name, what="checkpoint") is not None:
            path = folder / name
            return path, _read_shards(folder, name) if name.endswith(".json") else _read_file(folder, name)
    raise InputError(f"{folder} has a {CONFIG} but no weights; expected one of {', '.join(WEIGHT_FILES)}")


def _read_file(folder: Path, name: str) -> dict[str, Tensor]:
    path = check_inside(folder, name)
    content, _ = read_weights(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} must hold a state dict, tensors by name; got {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{path} must hold a state dict, tensors by name; {str(key)[:120]!r} is no tensor")
    return content


def _read_shards(folder: Path, index: str) -> dict[str, Tensor]:
    """The tensors of every shard, each where the index says."""
    place = folder / index
    weight_map = read_json(folder, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{place} must have a weight_map, the file of each tensor")
    shards = tuple(dict.fromkeys(map(str, weight_map.values())))
    for shard in shards:
        if any(part in shard for part in ("/", "\\", "..", "\0")) or not shard:
            raise InputError(f"{place}: {shard[:120]!r} is no file name in the folder; restore the index")
        if file_kind(folder / shard, what="checkpoint") is None:
            raise InputError(f"{place}: its shard {shard[:120]!r} is missing from the folder; fetch it too")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in _read_file(folder, shard).items():
            if weight_map.get(name) != shard:
                raise InputError(
                    f"{place}: the index does not say that {name[:120]!r} is in {shard}; restore the index"
                )
            tensors[name] = tensor
    absent = sorted(weight_map.keys() - tensors.keys())
    if absent:
        raise InputError(f"{place}: {absent[0][:120]!r} is in no shard; fetch the folder again")
    return tensors


def _n_passes(folder: Path, settings: GPT2Settings, options: Options, ledger: Ledger) -> int:
    """How often the layers run in a row, which `add_recurrence` says if it is there."""
    if settings.add_recurrence is None:
        ledger.infer(
            f"n_passes = {options.n_passes}", f"as asked for: {CONFIG} does not say how often the layers are applied"
        )
        return options.n_passes
    said = 2 if settings.add_recurrence else 1
    if options.n_passes not in (1, said):
        raise InputError(
            f"{folder / CONFIG}: add_recurrence = {str(settings.add_recurrence).lower()} means n_passes = {said}, "
            f"got n_passes = {options.n_passes}; leave n_passes out"
        )
    ledger.infer(f"n_passes = {said}", f"add_recurrence = {str(settings.add_recurrence).lower()} in {CONFIG}")
    return said


def _take_weights(ledger: Ledger, settings: GPT2Settings) -> tuple[dict[str, Tensor], Tensor | None]:
    """The weights in our names and shapes but for `W_U`, and the rows of lm_head if it has weights of its own."""
    prefix = "transformer." if "transformer.wte.weight" in ledger else ""
    _check_n_layers(ledger, prefix, settings)
    d_model, vocab = ("d_model", settings.n_embd), ("vocab_size", settings.vocab_size)
    weights = {
        "embed.W_E": ledger.take(f"{prefix}wte.weight", vocab, d_model),
        "pos_embed.W_pos": ledger.take(f"{prefix}wpe.weight", ("n_positions", settings.n_positions), d_model),
        "ln_final.w": ledger.take(f"{prefix}ln_f.weight", d_model),
        "ln_final.b": ledger.take(f"{prefix}ln_f.bias", d_model),
    }
    for layer in range(settings.n_layer):
        block = _take_block(ledger, f"{prefix}h.{layer}.", settings)
        weights |= {f"blocks.{layer}.{name}": weight for name, weight in block.items()}
        _ignore_masks(ledger, f"{prefix}h.{layer}.attn.", settings)
    unembedding = _take_unembedding(ledger, weights["embed.W_E"], settings)
    ledger.close()
    return weights, unembedding


def _check_n_layers(ledger: Ledger, prefix: str, settings: GPT2Settings) -> None:
    """Refuse a wrong number of layers before a net of that many is asked for."""
    start = f"{prefix}h."
    layers = {name[len(start) :].split(".")[0] for name in ledger.tensors if name.startswith(start)}
    if len(layers) != settings.n_layer:
        raise InputError(
            f"{ledger.place} has tensors of {len(layers)} layers, but n_layer = {settings.n_layer} in {CONFIG}"
        )


def _take_block(ledger: Ledger, prefix: str, settings: GPT2Settings) -> dict[str, Tensor]:
    """The weights of a layer, in our names and shapes."""
    heads, d_head = settings.n_head, settings.n_embd // settings.n_head
    d_model, d_mlp = ("d_model", settings.n_embd), ("d_mlp", settings.d_mlp)
    qkv = ("3 x d_model", 3 * settings.n_embd)
    weights = {}
    for theirs, ours in (("ln_1", "ln1"), ("ln_2", "ln2")):
        weights[f"{ours}.w"] = ledger.take(f"{prefix}{theirs}.weight", d_model)
        weights[f"{ours}.b"] = ledger.take(f"{prefix}{theirs}.bias", d_model)
    matrices = ledger.take(f"{prefix}attn.c_attn.weight", d_model, qkv).unflatten(1, (3, heads, d_head))
    biases = ledger.take(f"{prefix}attn.c_attn.bias", qkv).unflatten(0, (3, heads, d_head))
    for index, letter in enumerate("QKV"):
        weights[f"attn.W_{letter}"] = matrices[:, index].transpose(0, 1)
        weights[f"attn.b_{letter}"] = biases[index]
    output = ledger.take(f"{prefix}attn.c_proj.weight", ("n_heads x d_head", settings.n_embd), d_model)
    weights["attn.W_O"] = output.unflatten(0, (heads, d_head))
    weights["attn.b_O"] = ledger.take(f"{prefix}attn.c_proj.bias", d_model)
    weights["mlp.W_in"] = ledger.take(f"{prefix}mlp.c_fc.weight", d_model, d_mlp)
    weights["mlp.b_in"] = ledger.take(f"{prefix}mlp.c_fc.bias", d_mlp)
    weights["mlp.W_out"] = ledger.take(f"{prefix}mlp.c_proj.weight", d_mlp, d_model)
    weights["mlp.b_out"] = ledger.take(f"{prefix}mlp.c_proj.bias", d_model)
    return weights


def _ignore_masks(ledger: Ledger, prefix: str, settings: GPT2Settings) -> None:
    """Leave out the causal mask and the score of masked positions, which older versions save, after a look at them."""
    mask, score = f"{prefix}bias", f"{prefix}masked_bias"
    if mask in ledger:
        n = settings.n_positions
        given = ledger.take(mask, ("1", 1), ("1", 1), ("n_positions", n), ("n_positions", n))
        if not torch.equal(given[0, 0].bool(), torch.ones(n, n, dtype=torch.bool).tril()):
            raise InputError(f"{ledger.place}: {mask} is no causal mask, and no net here has another one")
        ledger.ignore([mask], "the causal mask, which is ours too")
    if score in ledger:
        if ledger.take(score).item() > -1e3:
            raise InputError(
                f"{ledger.place}: {score} must be at most -1000, so that masked positions get no attention"
            )
        ledger.ignore([score], "the score of masked positions, which are masked with -inf here")


def _take_unembedding(ledger: Ledger, embedding: Tensor, settings: GPT2Settings) -> Tensor | None:
    """The rows of lm_head; None where they are those of the embedding."""
    name, axes = "lm_head.weight", (("vocab_size", settings.vocab_size), ("d_model", settings.n_embd))
    if not settings.tie_word_embeddings:
        return ledger.take(name, *axes)
    if name in ledger and not torch.equal(ledger.take(name, *axes), embedding):
        raise InputError(
            f"{ledger.place}: {name} differs from the embedding, but tie_word_embeddings is true (or absent) in "
            f"{CONFIG}; set it to false if the net was trained untied"
        )
    ledger.infer("W_U = W_E transposed", f"tie_word_embeddings = true in {CONFIG}; a copy here, so training parts them")
    return None


def _build(settings: GPT2Settings, weights: Mapping[str, Tensor], *, n_passes: int) -> HookedSharedTransformer:
    """A net with these weights, each layer used once a pass."""
    act_fn: Any = _ACTIVATIONS.get(settings.activation_function, settings.activation_function)
    config = SharedTransformerConfig(
        layer_map=tuple(range(settings.n_layer)) * n_passes,
        d_model=settings.n_embd,
        n_heads=settings.n_head,
        d_mlp=settings.d_mlp,
        d_vocab=len(weights["embed.W_E"]),
        n_ctx=settings.n_positions,
        act_fn=act_fn,
        eps=settings.layer_norm_epsilon,
    )
    net = build_net(config)
    assert isinstance(net, HookedSharedTransformer)
    net = net.to(weights["embed.W_E"].dtype).eval()
    net.load_unique_state_dict(weights)
    return net


def _note_rows(ledger: Ledger, rows: TaskRows, settings: GPT2Settings) -> None:
    n_left_out = settings.vocab_size - len({row for row in rows.rows if row is not None})
    ledger.infer("rows of embedding and unembedding in the task's order", "its token ids are the dataset's")
    ledger.inferred.extend(rows.inferred)
    if n_left_out:
        ledger.ignored.append(f"{n_left_out} of {settings.vocab_size} rows of both: their tokens are not the task's")


def _note_answers_outside(
    ledger: Ledger,
    net: HookedSharedTransformer,
    task: TwoHopTask,
    rows: TaskRows,
    unembedding: Tensor,
    folder: Path,
) -> None:
    """Say how often the full model would have answered with a token that is left out."""
    if net.cfg.n_ctx < task.n_ctx:
        raise InputError(
            f"{folder / CONFIG}: n_positions = {net.cfg.n_ctx}, but the task's queries have {task.n_ctx} positions; "
            "give the dataset that the net was trained on"
        )
    n_outside, n = count_answers_outside(net, task, rows, unembedding)
    ledger.infer(
        "answers are compared among the task's tokens only",
        f"over the full vocabulary the largest logit of {n_outside} of {n} training queries ({n_outside / n:.1%}) is "
        "another token's",
    )


def _note_unread_files(folder: Path, file: Path, ledger: Ledger) -> None:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:  # its files can be read, but not listed
        return
    stem = file.name.removesuffix(".index.json").rsplit(".", 1)[0]
    others = [name for name in names if name not in {CONFIG, file.name, *TOKEN_FILES}]
    if file.suffix == ".json":
        others = [name for name in others if not name.startswith(f"{stem}-")]  # its shards
    if others:
        listed = first_few([name if name.isprintable() else ascii(name) for name in others], _MAX_NAMED)
        ledger.ignored.append(f"{listed}: files that the logits do not depend on")


def _step(folder: Path, ledger: Ledger) -> int | None:
    """Optimiser steps by the folder's name, checkpoint-<step> or checkpoint-<step>-epoch-<n>."""
    word, _, rest = folder.resolve().name.partition("-")
    digits = rest.split("-")[0]
    if word != "checkpoint" or not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        return None
    ledger.infer(f"step = {int(digits)}", "the folder's name")
    return int(digits)


GPT2_FOLDER = Importer(name="gpt2-folder", recognises=_recognises, read=_read)
