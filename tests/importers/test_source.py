"""What comes out of other people's files: the same numbers, as plain data, whatever wrote them."""

import sys
import types

import numpy as np
import pytest
import safetensors.torch
import torch

from circuit_lab.errors import InputError
from circuit_lab.importers.source import PickledSettings, check_inside, read_source, read_weights

BOTH = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old format"])


def tensors():
    """Of every type that files have, some sharing memory, some strange in shape."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    types_ = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    return {
        **{name: (10 * base[:2, :3]).to(getattr(torch, name)) for name in types_},
        "turned": base.T,
        "part": base[1:3, 2:5],
        "repeated": base[0].expand(5, 6),
        "number": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[:, 0]),
    }


def save(content, path, *, is_zip):
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


@BOTH
def test_tensors_come_back_equal_and_share_nothing(tmp_path, is_zip):
    saved = tensors()
    content, metadata = read_weights(save(saved, tmp_path / "a.pt", is_zip=is_zip))
    assert metadata == {} and list(content) == list(saved)
    for name, tensor in content.items():
        assert type(tensor) is torch.Tensor and torch.equal(tensor, saved[name]), name
        assert tensor.dtype == saved[name].dtype and tensor.is_contiguous() and not tensor.requires_grad
    filled = [tensor for tensor in content.values() if tensor.numel()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in filled}) == len(filled)


@BOTH
def test_a_training_script_s_dict_comes_back_plain(tmp_path, is_zip):
    net = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": [1.5, np.float64(0.25), np.float32(2.5), np.int64(-7), np.bool_(True)],
        "config": {"name": "é<b>", "flags": (True, False, None), "big": 2**70, 3: "int key"},
        "types": [torch.float32, torch.device("cpu"), torch.Size([2, 3])],
    }
    read, _ = read_weights(save(content, tmp_path / "a.pt", is_zip=is_zip))
    assert type(read["model"]) is dict and torch.equal(read["model"]["weight"], net.weight)
    assert torch.equal(read["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert read["losses"] == [1.5, 0.25, 2.5, -7, True] and {type(x) for x in read["losses"]} == {float, int, bool}
    assert read["config"] == content["config"]
    assert read["types"] == ["float32", "cpu", (2, 3)]


@BOTH
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("transformer_lens.HookedTransformerConfig", "HookedTransformerConfig"),
        ("easy_transformer.EasyTransformerConfig", "EasyTransformerConfig"),
    ],
)
def test_transformer_lens_settings_are_read_without_transformer_lens(tmp_path, monkeypatch, is_zip, module, name):
    """The class is made up under the real one's name: reading must not need it, nor call its methods."""
    cls = type(name, (), {"__module__": module, "__setstate__": lambda *_: pytest.fail("ran code of the file's class")})
    made = types.ModuleType(module)
    setattr(made, name, cls)
    monkeypatch.setitem(sys.modules, module.split(".")[0], types.ModuleType(module.split(".")[0]))
    monkeypatch.setitem(sys.modules, module, made)
    settings = cls()
    settings.__dict__.update(d_model=12, act_fn="relu", initializer_range=np.float64(0.25), dtype=torch.float32)
    path = save({"model": tensors(), "config": settings}, tmp_path / "a.pt", is_zip=is_zip)
    monkeypatch.delitem(sys.modules, module)
    read = read_source(path).content["config"]
    assert type(read) is PickledSettings
    assert read.settings == {"d_model": 12, "act_fn": "relu", "initializer_range": 0.25, "dtype": "float32"}


def test_the_settings_of_the_installed_transformer_lens_are_read(tmp_path):
    from transformer_lens.config import TransformerBridgeConfig

    config = TransformerBridgeConfig(n_layers=1, d_model=12, n_ctx=3, d_head=4, d_vocab=5, act_fn="relu")
    read = read_source(save({"config": config}, tmp_path / "a.pt", is_zip=True)).content["config"]
    assert (read.settings["d_model"], read.settings["act_fn"], read.settings["n_heads"]) == (12, "relu", config.n_heads)


def test_safetensors_and_folders(tmp_path):
    saved = {"w": torch.randn(3, 4), "half": torch.ones(2, dtype=torch.float16)}
    path = tmp_path / "no extension"
    path.write_bytes(safetensors.torch.save(saved, {"who": "someone"}))
    source = read_source(path)
    assert source.metadata == {"who": "someone"} and source.path == path
    assert source.content.keys() == saved.keys() and all(torch.equal(source.content[k], saved[k]) for k in saved)
    folder = read_source(str(tmp_path))
    assert folder.content is None and folder.metadata == {} and folder.path == tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"of no known format: it is empty \(0 bytes\); give a .safetensors file, a file of torch.save"),
        (b"GGUF" + bytes(100), r"of no known format: it starts with b'GGUF"),
        (b"\x80\x04\x95" + bytes(20), "a pickle that torch.save did not write and that is not read"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "of no known format: it starts with"),
        (b"PK\x03\x04" + bytes(200), "truncated or damaged: a zip archive without its end"),
    ],
)
def test_other_formats_are_named(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_source(path)


def test_a_numpy_archive_is_no_torch_file(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones(3))
    with pytest.raises(InputError, match="a zip archive, but not one of torch.save: it must hold one folder with data"):
        read_source(tmp_path / "x.npz")


def test_nothing_at_the_path(tmp_path):
    with pytest.raises(InputError, match="no checkpoint at .*nowhere: there is no such file or folder; give a .safe"):
        read_source(tmp_path / "nowhere")


@BOTH
def test_a_damaged_file_is_refused_or_equal(tmp_path, is_zip):
    """Flip bits all over a small file: only the bytes between its parts do not matter."""
    saved = {"w": torch.arange(6.0).reshape(2, 3), "step": 3}
    whole, damaged = save(saved, tmp_path / "a.pt", is_zip=is_zip).read_bytes(), tmp_path / "b.pt"
    n_refused = n_changed = 0
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        damaged.write_bytes(flipped)
        try:
            content, _ = read_weights(damaged)
        except InputError:
            n_refused += 1
            continue
        same = content.keys() == saved.keys() and content["step"] == 3 and torch.equal(content["w"], saved["w"])
        n_changed += not same
    assert n_refused > len(whole) / 70
    if is_zip:
        assert n_changed == 0  # a zip archive has checksums; the format before had none


@BOTH
def test_a_file_cut_short_is_refused(tmp_path, is_zip):
    whole = save({"w": torch.ones(40)}, tmp_path / "a.pt", is_zip=is_zip).read_bytes()
    cut = tmp_path / "b.pt"
    for length in [*range(0, len(whole), 23), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match="truncated or"):
            read_source(cut)


def test_a_file_that_leads_out_of_its_folder_is_refused(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").touch()
    (folder / "inside").symlink_to("sub/real")
    (folder / "outside").symlink_to("../secret")
    (folder / "loop").symlink_to("loop")
    assert check_inside(folder, "inside") == folder / "sub" / "real"
    assert check_inside(folder, folder / "sub") == folder / "sub"
    for name in ("../secret", "sub/../../secret", "outside", "/etc/passwd", tmp_path / "secret"):
        with pytest.raises(InputError, match="leads out of that folder, to /"):
            check_inside(folder, name)
    with pytest.raises(InputError, match="is no path: embedded null byte"):
        check_inside(folder, "a\0b")


def test_the_cache_of_the_hub_is_allowed(tmp_path):
    repository = tmp_path / "models--someone--net"
    snapshot = repository / "snapshots" / "0a1b"
    (snapshot / "sub").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "c0ffee").write_bytes(b"x")
    (snapshot / "config.json").symlink_to("../../blobs/c0ffee")
    (snapshot / "sub" / "config.json").symlink_to("../../../blobs/c0ffee")
    (snapshot / "refs").symlink_to("../../refs/main")
    assert check_inside(snapshot, "config.json") == repository / "blobs" / "c0ffee"
    assert check_inside(snapshot, "sub/config.json") == repository / "blobs" / "c0ffee"
    assert check_inside(snapshot / "sub", "config.json") == repository / "blobs" / "c0ffee"
    with pytest.raises(InputError, match="leads out of that folder"):
        check_inside(snapshot, "refs")
    other = tmp_path / "mine" / "snapshots" / "0a1b"
    other.mkdir(parents=True)
    (other / "config.json").symlink_to("../../blobs/c0ffee")
    with pytest.raises(InputError, match="leads out of that folder"):
        check_inside(other, "config.json")
