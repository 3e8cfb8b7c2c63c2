"""What the fuzzers call: bytes in; a damaged file is loaded, or an InputError comes out, and nothing else ever.

The bytes steer the damage (`mutations`), so that hypothesis and atheris share the targets, and most inputs get past the
first check.
"""

import atexit
import functools
import json
import shutil
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import safetensors.torch
import torch
from mutations import (
    Choices,
    join_safetensors,
    mutate_bytes,
    mutate_json,
    mutate_safetensors,
    mutate_tensors,
    mutate_torch_file,
    mutate_value,
    split_safetensors,
)
from seeds import Foreign, Seeds, make_seeds

from circuit_lab.importers import load
from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task, read_dataset_folder
from circuit_lab.training import load_checkpoint, load_recipe, parse_recipe, read_metrics
from circuit_lab.training.checkpoint_format import METADATA_KEY, file_hash
from circuit_lab.training.optimizer import FlatAdamW
from circuit_lab.training.resume import load_resume


@functools.cache
def workspace() -> Path:
    """A folder of this process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="circuit-lab-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def seeds() -> Seeds:
    """The files to be damaged."""
    return make_seeds(workspace() / "seeds")


@functools.cache
def seed_bytes(path: Path) -> bytes:
    """A seed's bytes, read once."""
    return path.read_bytes()


def own_checkpoint(data: bytes) -> None:
    """A checkpoint of ours, with its record changed under a right hash in half of the cases."""
    choices = Choices(data)
    content = seed_bytes(choices.pick(seeds().own))
    changed = _with_right_hash(content, choices) if choices.below(2) else mutate_safetensors(content, choices)
    path = workspace() / "own.safetensors"
    path.write_bytes(changed)
    load_checkpoint(path)


def _with_right_hash(content: bytes, choices: Choices) -> bytes:
    """Record, tensors or both changed, and the hash over the file made anew, as someone who forges a file would."""
    header, rest = split_safetensors(content)
    record = json.loads(header["__metadata__"][METADATA_KEY])
    tensors = safetensors.torch.load(content)
    what = choices.below(3)
    if what != 1:
        record = mutate_value(record, choices)
    if what != 0:
        tensors = mutate_tensors(tensors, choices)
    try:
        if isinstance(record, dict) and "file_hash" in record:
            record["file_hash"] = file_hash(record, tensors)
        return safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(record)})
    except Exception:  # what safetensors cannot write (types, shared memory), nobody can load: the header alone, then
        header["__metadata__"][METADATA_KEY] = json.dumps(record)
        return join_safetensors(header, rest)


def _load(path: Path, choices: Choices) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(path, task=choices.pick((None, None, "modular:p=7,n_train=20")))


def _foreign_seed(choices: Choices) -> tuple[Foreign, Path]:
    """A checkpoint, and a folder in which its config.json stands, changed in a third of the cases."""
    name = choices.pick(list(seeds().foreign))
    seed, folder = seeds().foreign[name], workspace() / name
    folder.mkdir(exist_ok=True)
    if seed.settings is not None:
        settings = json.dumps(seed.settings).encode()
        (folder / "config.json").write_bytes(mutate_json(settings, choices) if choices.below(3) == 0 else settings)
    return seed, folder


def foreign_torch(data: bytes) -> None:
    """A torch file of each dialect."""
    choices = Choices(data)
    seed, folder = _foreign_seed(choices)
    path = folder / "theirs.pt"
    path.write_bytes(mutate_torch_file(seed.content, choices))
    _load(path, choices)


def foreign_safetensors(data: bytes) -> None:
    """The same weights in a safetensors file."""
    choices = Choices(data)
    seed, folder = _foreign_seed(choices)
    path = folder / "theirs.safetensors"
    path.write_bytes(mutate_safetensors(safetensors.torch.save(seed.weights), choices))
    _load(path, choices)


def gpt2_folder(data: bytes) -> None:
    """A GPT-2 folder, mostly its config.json."""
    choices = Choices(data)
    folder = workspace() / "gpt2"
    if not folder.exists():
        shutil.copytree(seeds().gpt2, folder)
    for name, mutate in (("config.json", mutate_json), ("model.safetensors", mutate_safetensors)):
        content = seed_bytes(seeds().gpt2 / name)
        is_changed = name == "config.json" or choices.below(4) == 0
        (folder / name).write_bytes(mutate(content, choices) if is_changed else content)
    _load(folder, choices)


def recipe(data: bytes) -> None:
    """A recipe: its text, or its tables; one that is read is written back the same."""
    choices = Choices(data)
    content = choices.pick(seeds().recipes)
    if choices.below(3) == 0:
        path = workspace() / "recipe.toml"
        path.write_bytes(mutate_bytes(content, choices))
        found = load_recipe(path)
    else:
        tables = mutate_value(tomllib.loads(content.decode()), choices)
        found = parse_recipe(tables if isinstance(tables, dict) else {"": tables}, source="a fuzzer")
    assert parse_recipe(tomllib.loads(found.to_toml()), source="read back") == found
    found.net_config(d_vocab=8, d_vocab_out=7, n_ctx=3)


def setting(data: bytes) -> None:
    """`--set`: keys and values of any text."""
    choices = Choices(data)
    path = workspace() / "whole.toml"
    path.write_bytes(choices.pick(seeds().recipes))
    key = choices.pick(
        ("training.n_steps", "net", "task.p", "task", "net.layer_map", "", "a.b.c", "optimizer.betas", ".")
    )
    value = choices.pick(
        ("1", "[", "{a=1}", "nan", "1979-05-27", "0x" + "f" * 40, "7", "9" * 5000, "[" * 3000, "\0", "'")
    )
    text = f"{key}={value}".encode()
    if choices.below(4):
        text = mutate_bytes(text, choices)
    load_recipe(path, [text.decode("utf-8", "surrogateescape")])


def dataset_folder(data: bytes) -> None:
    """A dataset folder: one file changed or gone, or two exchanged."""
    choices = Choices(data)
    folder = workspace() / "dataset"
    shutil.copytree(seeds().dataset, folder, dirs_exist_ok=True)
    names = sorted(path.name for path in seeds().dataset.iterdir())
    path, kind = folder / choices.pick(names), choices.below(10)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(seed_bytes(seeds().dataset / choices.pick(names)))
    else:
        path.write_bytes(mutate_json(seed_bytes(seeds().dataset / path.name), choices))
    read_dataset_folder(folder)


@functools.cache
def _net_and_optimizer():
    recipe = seeds().recipe
    task = build_task(recipe.task)
    net = build_net(recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx))
    return net, FlatAdamW(net, recipe.optimizer)


def resume_state(data: bytes) -> None:
    """A resume state."""
    choices = Choices(data)
    content = seed_bytes(seeds().run / "resume.safetensors")
    changed = mutate_safetensors(content, choices)
    if choices.below(3) == 0:
        header, rest = split_safetensors(content)
        metadata = json.loads(header["__metadata__"][METADATA_KEY])
        header["__metadata__"][METADATA_KEY] = mutate_json(json.dumps(metadata).encode(), choices).decode(
            "utf-8", "replace"
        )
        changed = join_safetensors(header, rest)
    run = workspace() / "resumed"
    run.mkdir(exist_ok=True)
    (run / "resume.safetensors").write_bytes(changed)
    net, optimizer = _net_and_optimizer()
    step = load_resume(run, net=net, optimizer=optimizer, n_steps=40)
    assert step == 40 and all(torch.isfinite(weight).all() for weight in net.parameters())


def metrics(data: bytes) -> None:
    """The metrics of a run: lines changed, as bytes and as values."""
    choices = Choices(data)
    content = seed_bytes(seeds().run / "metrics.jsonl")
    if choices.below(2):
        lines = content.splitlines(keepends=True)
        place = choices.below(len(lines))
        lines[place] = mutate_json(lines[place].rstrip(b"\n"), choices) + b"\n"
        content = b"".join(lines)
    else:
        content = mutate_bytes(content, choices)
    run = workspace() / "measured"
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_bytes(content)
    assert all(type(record["step"]) is int for record in read_metrics(run))


TARGETS: Mapping[str, Callable[[bytes], None]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            own_checkpoint,
            foreign_torch,
            foreign_safetensors,
            gpt2_folder,
            recipe,
            setting,
            dataset_folder,
            resume_state,
            metrics,
        )
    }
)
