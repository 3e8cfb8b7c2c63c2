"""A checkpoint file that is damaged, too big, unreadable or not one is one clear error; saving loses nothing."""

import errno
import json
import os
import random
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from changed_checkpoints import read_raw, rewrite, set_field, write_raw
from forked_child import become_nobody, limit_file_size, outcome_in_child, timed
from small_nets import make_net

from circuit_lab.errors import InputError
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import ModularConfig, TwoHopConfig, build_task, read_dataset_folder, write_dataset_folder
from circuit_lab.training import load_checkpoint, resolve_checkpoint, save_checkpoint
from circuit_lab.training.checkpoint import Origin, Record, check_finite
from circuit_lab.training.checkpoint_format import METADATA_KEY, file_hash

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGIN = Origin(
    format="a-dialect", file="model.pt", inferred=("n_heads = 3 (first axis)",), ignored=("mask: a buffer",)
)


@pytest.fixture
def task():
    return build_task(TwoHopConfig(n_entities=8, n_relations=5, out_degree=5, ood_share=0.3, test_id_share=0.1))


def net_for(task, *, dtype=torch.float32):
    return make_net(dtype=dtype, d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx)


@pytest.fixture
def file(task, tmp_path):
    return save_checkpoint(tmp_path / "c.safetensors", net=net_for(task), task=task, step=3, metrics={"test_ood": 0.5})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint of two thousand bytes, and what it loads to."""
    task = build_task(ModularConfig(p=3, n_train=5))
    sizes = {"d_vocab": task.d_vocab, "d_vocab_out": task.d_vocab_out, "n_ctx": task.n_ctx}
    parts = {"normalization_type": None, "attn_bias": False, "mlp_bias": False}
    config = SharedTransformerConfig(layer_map=(0,), d_model=2, n_heads=1, d_mlp=3, **sizes, **parts)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_checkpoint(path, net=build_net(config), task=task, step=1, metrics={"train": 0.25})
    return path, load_checkpoint(path)


def refusal(path):
    """The message with which a file is refused, or "loaded"."""
    try:
        load_checkpoint(path)
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    return "loaded"


# Versions


def test_a_version_1_file_loads_and_computes_what_it_did():
    path = GOLDEN / "checkpoint_version_1.safetensors"
    record, tensors = read_raw(path)
    assert record["format_version"] == 1 and "file_hash" not in record
    loaded = load_checkpoint(path)
    logits = loaded.net(tensors["fingerprint/tokens"])
    assert float(logits.detach().abs().max()) > 0.1
    torch.testing.assert_close(logits, tensors["fingerprint/logits"], rtol=0.0, atol=1e-6)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith("fingerprint/")}
    assert weights.keys() == loaded.net.unique_state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in loaded.net.unique_state_dict().items())
    assert (loaded.step, loaded.metrics, loaded.origin) == (3, {"test_ood": 0.5}, None)
    assert loaded.recipe == {"about": {"title": "a version 1 file"}}


def test_a_version_1_file_saved_again_is_of_version_2(tmp_path):
    old = load_checkpoint(GOLDEN / "checkpoint_version_1.safetensors")
    new = save_checkpoint(tmp_path / "new", net=old.net, task=old.task, step=old.step, metrics=old.metrics)
    assert read_raw(new)[0]["format_version"] == 2
    assert load_checkpoint(new).weights_hash == old.weights_hash


def test_a_version_1_file_may_not_have_the_fields_of_version_2(tmp_path):
    path = tmp_path / "old.safetensors"
    shutil.copy(GOLDEN / "checkpoint_version_1.safetensors", path)
    with pytest.raises(InputError, match=r"metadata keys missing: \[\], unknown: \['colour'\]"):
        load_checkpoint(rewrite(path, set_field("colour", None)))


# Damage


@pytest.mark.parametrize("field", [name for name in Record.model_fields if name != "format_version"])
def test_the_hash_covers_every_field_of_the_record(file, field):
    rewrite(file, set_field(field, {"another": "value"}), hashed=False)
    with pytest.raises(InputError, match="c.safetensors is damaged: its content is not what it was saved with"):
        load_checkpoint(file)


def test_the_hash_covers_name_type_shape_and_bytes_of_every_tensor(file):
    record, tensors = read_raw(file)
    name = "embed.W_E"
    changes = [
        {key: tensor for key, tensor in tensors.items() if key != "fingerprint/tokens"},
        tensors | {"more": torch.zeros(1)},
        tensors | {name: tensors[name].T.contiguous()},
        tensors | {name: tensors[name].view(torch.int32)},
        tensors | {name: tensors[name] + 1e-6},
        tensors | {"fingerprint/logits": tensors["fingerprint/logits"] + 1e-6},
    ]
    assert file_hash(record, dict(reversed(tensors.items()))) == record["file_hash"]
    assert len({file_hash(record, changed) for changed in (tensors, *changes)}) == 1 + len(changes)
    for changed in changes:
        write_raw(file, record, changed)
        with pytest.raises(InputError, match="is damaged: its content is not what it was saved with"):
            load_checkpoint(file)


def check_flips(tiny, folder, bits, *, every=1):
    """Flip one bit at a time; the file is refused, or loads to exactly the same."""
    path, original = tiny
    content, damaged = path.read_bytes(), folder / "damaged.safetensors"
    messages, n_loaded = set(), 0
    for position in range(0, len(content), every):
        for bit in bits(position):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            damaged.write_bytes(flipped)
            message = refusal(damaged)
            messages.add(message.split(":")[0].replace(str(damaged), ""))
            if message == "loaded":
                n_loaded += 1
                again = load_checkpoint(damaged)
                same = (again.weights_hash, again.step, again.metrics, again.net.cfg, again.task.certificate)
                assert same == (
                    original.weights_hash,
                    original.step,
                    original.metrics,
                    original.net.cfg,
                    original.task.certificate,
                ), (position, bit)
    return messages, n_loaded, len(content)


def test_a_flipped_bit_is_noticed(tiny, tmp_path):
    chooser = random.Random(0)
    messages, n_loaded, n_bytes = check_flips(tiny, tmp_path, lambda _: [chooser.randrange(8)], every=5)
    assert n_bytes > 1000 and n_loaded == 0
    assert {" is truncated or not a safetensors file", "checkpoint  is damaged"} <= messages


@pytest.mark.slow
def test_every_flipped_bit_is_noticed(tiny, tmp_path):
    _, n_loaded, n_bytes = check_flips(tiny, tmp_path, lambda _: range(8))
    assert n_loaded <= 1 < n_bytes, "1E-05 instead of 1e-05 is the same number; nothing else is the same"


def test_a_file_cut_short_anywhere_is_refused(tiny, tmp_path):
    content, cut = tiny[0].read_bytes(), tmp_path / "cut.safetensors"
    for length in [*range(201), *range(201, len(content), 97), len(content) - 1]:
        cut.write_bytes(content[:length])
        assert "cut.safetensors is truncated or not a safetensors file: " in refusal(cut), length
    cut.write_bytes(content + b"\0")
    assert "is truncated or not a safetensors file" in refusal(cut)
    cut.write_bytes(content)
    assert refusal(cut) == "loaded"


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(InputError, match=r"not a safetensors file: it is empty \(0 bytes\); copy or download it again"):
        load_checkpoint(tmp_path / "empty.safetensors")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("[1]", r"its metadata must be a JSON object, got \[1\]"),
        ("{", "its metadata is not JSON: Expecting property name"),
        ("[" * 100_000, "its metadata is not JSON: maximum recursion depth"),
        ('{"step": ' + "9" * 5000 + "}", "its metadata is not JSON: Exceeds the limit"),
    ],
)
def test_metadata_that_is_no_record_is_refused(file, record, message):
    file.write_bytes(safetensors.torch.save(read_raw(file)[1], {METADATA_KEY: record}))
    with pytest.raises(InputError, match=f"checkpoint .* is damaged: {message}"):
        load_checkpoint(file)


# Numbers


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")])
def test_weights_that_are_no_numbers_are_named(file, task, tmp_path, value, shown):
    _, tensors = read_raw(file)
    weight = tensors["blocks.1.mlp.W_in"].clone()
    weight[2, 7] = weight[5, 1] = value
    message = rf"2 of the 240 numbers of blocks.1.mlp.W_in are NaN or .*W_in\[2, 7\] = {shown}: training diverged"
    with pytest.raises(InputError, match=f"it cannot be loaded: {message}"):
        load_checkpoint(with_weights(file, {"blocks.1.mlp.W_in": weight}))
    net = net_for(task)
    with torch.no_grad():
        net.blocks[1].mlp.W_in.copy_(weight)
    with pytest.raises(InputError, match=f"cannot save .*new: {message}"):
        save_checkpoint(tmp_path / "new", net=net, task=task, step=3, metrics={})
    assert not (tmp_path / "new").exists()


def with_weights(file, weights):
    """The file with other weights, and both hashes corrected."""
    from circuit_lab.training.checkpoint_format import weights_hash

    tensors = read_raw(file)[1] | weights
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("fingerprint/")}
    return rewrite(file, set_field("weights_hash", weights_hash(own)), **weights)


def test_logits_that_overflow_are_not_saved(task, tmp_path):
    net = net_for(task)
    with torch.no_grad():
        net.unembed.W_U.fill_(3e38)
    with pytest.raises(InputError, match="cannot save .*numbers of fingerprint/logits are NaN or infinite"):
        save_checkpoint(tmp_path / "new", net=net, task=task, step=0, metrics={})


def test_finite_numbers_of_any_type_pass():
    check_finite({"a": torch.ones(2, 3), "b": torch.tensor([1]), "c": torch.zeros(0), "d": torch.tensor(True)}, "here")
    with pytest.raises(InputError, match=r"here: 1 of the 1 numbers of a are NaN or infinite, the first a\[\] = nan"):
        check_finite({"a": torch.tensor(float("nan"))}, "here")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(file, task, tmp_path, dtype):
    halved = {name: tensor.to(dtype) for name, tensor in read_raw(file)[1].items() if tensor.is_floating_point()}
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        InputError, match=f"weights of type {name} are not supported; convert them to float32 or float64"
    ):
        load_checkpoint(rewrite(file, **halved))
    with pytest.raises(InputError, match=f"cannot save .*new: weights of type {name} are not supported"):
        save_checkpoint(tmp_path / "new", net=net_for(task).to(dtype), task=task, step=0, metrics={})


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.int8, r"weight embed.W_E must be \[14, 12\] torch.float32, got \[14, 12\] torch.int8"),
        (torch.complex64, "tensor 'embed.W_E' is of type 'C64', which is not supported; convert it to float32"),
        (torch.float8_e4m3fn, "tensor 'embed.W_E' is of type 'F8_E4M3', which is not supported"),
        (torch.float64, r"weight embed.W_E must be .* torch.float32, got \[14, 12\] torch.float64"),
    ],
)
def test_other_types_of_numbers_are_refused(file, dtype, message):
    record, tensors = read_raw(file)
    tensors["embed.W_E"] = tensors["embed.W_E"].to(dtype)
    record["file_hash"] = file_hash(record, tensors)
    with pytest.raises(InputError, match=message):
        load_checkpoint(write_raw(file, record, tensors))


# Devices


def test_a_device_that_is_not_there_is_named(file):
    for device in ("cuda:99", "meta", "tpu", ""):
        with pytest.raises(InputError, match=f"device '{device}' is not available; this machine has: auto, .*cpu"):
            load_checkpoint(file, device=device)


def test_float64_does_not_go_to_mps(task, tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "c", net=net_for(task, dtype=torch.float64), task=task, step=0, metrics={})
    assert load_checkpoint(path).net.dtype == torch.float64
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(InputError, match='its weights are float64, which mps does not have; use device="cpu"'):
        load_checkpoint(path, device="mps")


# Tasks and origins


def test_a_net_without_a_task_is_kept_and_takes_one_later(task, tmp_path):
    net = net_for(task)
    save = {"net": net, "task": None, "step": 0, "metrics": {}, "origin": ORIGIN}
    path = save_checkpoint(tmp_path / "c", **save)
    assert save_checkpoint(tmp_path / "again", **save).read_bytes() == path.read_bytes()
    record, tensors = read_raw(path)
    assert (record["task"], record["task_hash"]) == (None, None)
    tokens = tensors["fingerprint/tokens"]
    assert tokens.shape == (16, 3) and len(tokens.unique()) > 10 and int(tokens.max()) < task.d_vocab
    loaded = load_checkpoint(path)
    assert loaded.given_task is None and loaded.origin == ORIGIN
    with pytest.raises(InputError, match="came without a task, so there are no queries"):
        _ = loaded.task
    assert load_checkpoint(path, task=task).task is task


def test_another_task_is_refused(file, task):
    assert load_checkpoint(file, task=task).task is task
    other = build_task(task.config.model_copy(update={"seed": 1}))
    with pytest.raises(
        InputError, match="belongs to another task: it was trained on .*'seed': 0.* with the hash .*, the t"
    ):
        load_checkpoint(file, task=other)


def test_a_dataset_folder_that_moved_is_given(task, tmp_path):
    old = write_dataset_folder(task, tmp_path / "data")
    read = read_dataset_folder(old)
    path = save_checkpoint(tmp_path / "c", net=net_for(read), task=read, step=0, metrics={})
    assert load_checkpoint(path).task.certificate == read.certificate
    new = old.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="its task cannot be rebuilt: dataset folder .*data does not exist"):
        load_checkpoint(path)
    assert load_checkpoint(path, task=read_dataset_folder(new)).task.certificate == read.certificate


def test_no_path_in_a_checkpoint_climbs(task, tmp_path, monkeypatch):
    """A user's own `../data` is recorded as the place it is; a file that says `..` itself is refused."""
    write_dataset_folder(task, tmp_path / "data")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    read = read_dataset_folder("../data")
    recipe = {"task": {"path": "../data"}, "parent": {"checkpoint": "../runs/first"}, "about": {"title": "../x"}}
    path = save_checkpoint("c", net=net_for(read), task=read, step=0, metrics={}, recipe=recipe)
    assert recipe["task"] == {"path": "../data"}
    monkeypatch.chdir("/")
    loaded = load_checkpoint(tmp_path / "work" / path)
    assert loaded.task.config.path == str(tmp_path / "data")
    assert loaded.recipe == {
        "task": {"path": str(tmp_path / "data")},
        "parent": {"checkpoint": str(tmp_path / "runs" / "first")},
        "about": {"title": "../x"},
    }
    path = tmp_path / "work" / path
    rewrite(path, lambda record: record["task"].__setitem__("path", "data/../../etc"))
    with pytest.raises(
        InputError, match="the path of its dataset, 'data/../../etc', climbs with '..'; give the dataset"
    ):
        load_checkpoint(path)
    assert load_checkpoint(path, task=read).task is read
    rewrite(path, lambda record: record["recipe"]["parent"].__setitem__("checkpoint", "..\\x"))
    with pytest.raises(InputError, match="the path of its parent, .*x, climbs with '..'"):
        load_checkpoint(path, task=read)


# Requests for more than the file is worth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r["net"].__setitem__("d_mlp", 10**12),
            "its net config asks for more than 1,0[0-9,]* weights, far more than the file holds",
        ),
        (lambda r: r["net"].__setitem__("layer_map", [0] * 5000), "asks for 5,000 layers; at most 4,096 are built"),
        (
            lambda r: r["task"].__setitem__("n_entities", 10**9),
            "make 25,000,000,000 two-hop queries.* at most 20,000,000",
        ),
    ],
)
def test_a_small_file_cannot_ask_for_a_large_net_or_task(file, change, message):
    rewrite(file, change)
    outcome = timed(lambda: load_checkpoint(file), seconds=5.0, memory=10**9)
    assert re.search(f"^InputError: checkpoint .*{message}", outcome), outcome


def test_100_megabytes_of_metadata_are_refused_unparsed(tmp_path):
    """Some 100 MB are in memory while the file is written; reading it must not take them again."""
    path, metadata = tmp_path / "c.safetensors", b'{"__metadata__":{"circuit_lab":"' + b"x" * 100_000_000 + b'"}}'
    path.write_bytes(len(metadata).to_bytes(8, "little") + metadata)
    outcome = timed(lambda: load_checkpoint(path), seconds=2.0, memory=50_000_000)
    path.unlink()
    message = r"its header claims 100,000,\d+ bytes, at most 16,777,216 are read"
    assert re.search(f"^InputError: .*not a safetensors file: {message}", outcome), outcome


def test_a_file_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "c.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no space
    with pytest.raises(
        InputError, match="is too large for a checkpoint: 1,099,511,627,776 bytes, at most 4,294,967,296"
    ):
        load_checkpoint(path)


# Places


def make_loop(path):
    path.symlink_to(path.name)


def make_dangling(path):
    path.symlink_to("nowhere")


PLACES = {
    "a folder": (Path.mkdir, "it is a folder; give the .safetensors file in it"),
    "nothing": (lambda _: None, "there is no such file"),
    "a loop of links": (make_loop, "its symbolic links lead in a circle; remove or correct them"),
    "a link to nothing": (make_dangling, "it is a symbolic link to nowhere, where nothing is; correct the link"),
    "a pipe": (os.mkfifo, "it is a pipe, socket or device, not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, socket or device, not a regular file"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_without_a_file_is_named_and_does_not_hang(tmp_path, place):
    make, message = PLACES[place]
    path = tmp_path / "c.safetensors"
    make(path)
    outcome = outcome_in_child(lambda: load_checkpoint(path), seconds=5.0)
    assert outcome.startswith("InputError: no checkpoint at ") and message in outcome
    if place not in ("a folder", "nothing"):
        with pytest.raises(InputError, match=message):
            resolve_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\0b", "a path cannot hold this .embedded null byte.; correct it"),
        ("x" * 300, "the name is longer than the file system allows; give a shorter one"),
    ],
)
def test_names_that_cannot_be(tmp_path, task, name, message):
    for use in (load_checkpoint, resolve_checkpoint):
        with pytest.raises(InputError, match=message):
            use(tmp_path / name)
    with pytest.raises(InputError, match=message):
        save_checkpoint(tmp_path / name, net=net_for(task), task=task, step=0, metrics={})


def test_a_folder_without_checkpoints_is_named(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="no checkpoint in folder .*: expected weights.safetensors .* or checkpoints/"):
        resolve_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="has no checkpoint"):
        resolve_checkpoint(tmp_path)


def test_a_file_that_may_not_be_read_is_named(file):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "c.safetensors"
        shutil.copy(file, path)

        def load_as_nobody():
            become_nobody()
            return load_checkpoint(path)

        path.chmod(0o644)
        assert outcome_in_child(load_as_nobody).startswith("<Checkpoint")
        path.chmod(0o000)
        assert "there is no permission to read it; change its permissions" in outcome_in_child(load_as_nobody)
        path.chmod(0o644)
        folder.chmod(0o700)
        outcome = outcome_in_child(load_as_nobody)
        assert outcome.startswith("InputError: no checkpoint at") and "there is no permission to read it" in outcome


# Full disks


def test_a_full_disk_leaves_the_old_file(file, task):
    """The kernel refuses to write more than half of the new file."""
    before, net = file.read_bytes(), net_for(task)
    with torch.no_grad():
        net.embed.W_E.mul_(2.0)

    def save_on_a_full_disk():
        limit_file_size(len(before) // 2)
        return save_checkpoint(file, net=net, task=task, step=4, metrics={})

    outcome = outcome_in_child(save_on_a_full_disk)
    assert outcome.startswith("OSError: ") and str(file) in outcome
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]
    save_checkpoint(file, net=net, task=task, step=4, metrics={})
    assert load_checkpoint(file).step == 4


def test_a_disk_that_is_full_only_at_the_end_leaves_the_old_file(file, task, monkeypatch):
    before = file.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_checkpoint(file, net=net_for(task), task=task, step=4, metrics={})
    assert not isinstance(caught.value, ValueError) and caught.value.errno == errno.ENOSPC
    assert file.read_bytes() == before and [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_record_is_one_json_object_with_sorted_keys(file):
    with safetensors.safe_open(file, framework="pt") as opened:
        (text,) = opened.metadata().values()
    assert json.dumps(json.loads(text), sort_keys=True) == text


def test_a_type_that_is_no_name_is_quoted_shortly(tmp_path):
    header = json.dumps({"w": {"dtype": {"x" * 9000: 1}, "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(InputError, match="tensor 'w' is of type .*not supported") as refused:
        load_checkpoint(path)
    assert len(str(refused.value)) < 500
