"""Archives that expand, overlap, point elsewhere or lie about their size are refused before anything is inflated."""

import io
import re
import struct
import time
import zipfile

import pytest
import torch
from forked_child import timed
from hostile_torch_files import MIB, dict_of, tensor, whole, zip_file

from circuit_lab.errors import InputError
from circuit_lab.importers import torch_files
from circuit_lab.importers.source import read_source

FINE = whole(dict_of(tensor(10, size=(10,), stride=(1,))))
NUMBERS = {"0": bytes(40)}


def refusal(path, content, **options):
    path.write_bytes(content)
    outcome = timed(lambda: read_source(path, **options), seconds=2.0, memory=300 * MIB)
    assert outcome.startswith("InputError: "), outcome
    return outcome


def overlapping():
    """Ten entries of one megabyte, nine of which are the first once more: more comes out than is in the file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", FINE)
        archive.writestr("archive/data/0", bytes(MIB))
        first = archive.getinfo("archive/data/0")
        for index in range(1, 10):
            again = zipfile.ZipInfo(f"archive/data/{index}")
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = MIB
            again.external_attr, again.create_version = first.external_attr, first.create_version
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    return stream.getvalue()


def with_directory_size(content, n_bytes):
    """The archive claims a list of entries of so many bytes."""
    end = content.rindex(b"PK\x05\x06")
    return content[: end + 12] + struct.pack("<I", n_bytes) + content[end + 16 :]


BOMBS = {
    "a thousandfold expansion": (
        lambda: zip_file(FINE, storages={"0": bytes(64 * MIB)}, compression=zipfile.ZIP_DEFLATED),
        r"is compressed \(\d+ bytes for \d+\), which torch.save never does; it is refused unread",
    ),
    "overlapping entries": (overlapping, "its entries overlap: together they are larger than the file"),
    "many entries": (
        lambda: zip_file(FINE, storages={str(index): b"" for index in range(100)}),
        "an archive of 102 entries, at most 100 are read",
    ),
    "a long list of entries": (
        lambda: with_directory_size(zip_file(FINE, storages=NUMBERS), 2**31),
        "an archive with a list of entries of 2,147,483,648 bytes, which is refused unread",
    ),
    "a path up": (lambda: zip_file(FINE, extra=[("../../tmp/x", b"")]), "is named like a path out of the archive"),
    "a path up inside": (lambda: zip_file(FINE, extra=[("archive/../../x", b"")]), "is named like a path out"),
    "an absolute path": (lambda: zip_file(FINE, extra=[("/etc/passwd", b"")]), "is named like a path out"),
    "a drive": (lambda: zip_file(FINE, extra=[("C:x", b"")]), "is named like a path out of the archive"),
    "a backslash": (lambda: zip_file(FINE, extra=[("archive\\x", b"")]), "is named like a path out of the archive"),
    "two folders": (lambda: zip_file(FINE, extra=[("other/data.pkl", b"N.")]), "it must hold one folder with data.pkl"),
    "names that differ in case": (
        lambda: zip_file(FINE, extra=[("archive/DATA.pkl", b"N.")]),
        "it must hold one folder with data.pkl",
    ),
    "no pickle": (lambda: zip_file(FINE).replace(b"data.pkl", b"data.pk_"), "it must hold one folder with data.pkl"),
    "a program": (lambda: zip_file(FINE, extra=[("archive/constants.pkl", b"N.")]), "a TorchScript program"),
    "a large pickle": (lambda: zip_file(bytes(MIB + 1)), "its data.pkl is larger than 1,048,576 bytes"),
    "a wrong checksum": (
        lambda: zip_file(FINE, storages={"0": b"0123456789" * 4}).replace(b"0123456789", b"0123456798", 1),
        "is damaged: the checksum of 'archive/data/0' is wrong; download it again",
    ),
    "something behind it": (lambda: zip_file(FINE, storages=NUMBERS) + b"x", "a zip archive without its end"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_archive_is_refused(tmp_path, monkeypatch, bomb):
    """The limits are lowered, so that going beyond them is quick."""
    monkeypatch.setattr(torch_files, "MAX_ENTRIES", 100)
    monkeypatch.setattr(torch_files, "MAX_PICKLE_BYTES", MIB)
    make, message = BOMBS[bomb]
    assert re.search(message, refusal(tmp_path / "a.pt", make()))


def test_what_the_bombs_are_made_from_loads(tmp_path):
    (tmp_path / "a.pt").write_bytes(zip_file(FINE, storages=NUMBERS))
    assert torch.equal(read_source(tmp_path / "a.pt").content["w"], torch.zeros(10))


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, path)
    n_bytes = path.stat().st_size
    assert read_source(path, max_bytes=n_bytes).content["w"].sum() == 1000
    with pytest.raises(InputError, match=f"is too large for a checkpoint: {n_bytes:,} bytes, at most {n_bytes - 1:,}"):
        read_source(path, max_bytes=n_bytes - 1)
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
    start = time.perf_counter()
    with pytest.raises(InputError, match="5,368,709,120 bytes, at most 4,294,967,296 are read"):
        read_source(path)
    assert time.perf_counter() - start < 1.0


def test_views_that_expand_beyond_the_limit_are_refused(tmp_path):
    torch.save({"w": torch.ones(1).expand(1000, 1000)}, tmp_path / "a.pt")
    assert read_source(tmp_path / "a.pt").content["w"].shape == (1000, 1000)
    with pytest.raises(InputError, match="its tensors have more than 3,999,999 bytes together"):
        read_source(tmp_path / "a.pt", max_bytes=3_999_999)
