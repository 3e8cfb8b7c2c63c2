"""Reads files of torch.save from anyone: checked first, then loaded with `weights_only=True`.

A zip archive (since torch 1.6): a pickle, and one entry for the numbers of each storage, none compressed. The format
before: five pickles, then the numbers.
"""

import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.importers.pickle_scan import StoredNumbers, scan_pickle
from circuit_lab.importers.pickle_stand_ins import STAND_INS, PickledNumber, PickledSettings

MAX_ENTRIES = 20_000
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_PICKLE_BYTES = 64 * 2**20
MAX_CONTENT_VALUES = 2_000_000
MAX_DEPTH = 50
OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""With what a file of torch.save before version 1.6 starts: a pickle of the number 0x1950a86a20f9469cfc6c."""
_FIX = "save the weights alone, torch.save(model.state_dict(), path)"
_N_OLD_PICKLES = 5
_END_BYTES = 98
"""The three records that end an archive: 56 and 20 bytes where it is large, and 22."""
_STRANGE_IN_NAMES = ("\\", ":", "\0")


def read_torch_file(path: Path, file: BinaryIO, *, is_zip: bool, max_bytes: int) -> Any:
    """The content of a file of torch.save: tensors, numbers, strings, None, in dicts, lists and tuples.

    Args:
        path: Its path, for messages.
        file: The file, open.
        is_zip: Whether it is a zip archive, or in the format before.
        max_bytes: Most that all its tensors may have together.

    Returns:
        The content. No tensor shares memory with another.

    Raises:
        InputError: If it is damaged, too large, or holds anything else.
    """
    place = str(path)
    if is_zip:
        _check_archive(place, file)
    else:
        _check_old_format(place, file)
    file.seek(0)
    try:
        # The checks above leave nothing that could run; this refuses it a second time.
        with torch.serialization.safe_globals(list(STAND_INS)):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler fed with anything raises anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{place} is damaged, or not what torch.save writes: {reason}") from error
    if not isinstance(content, dict | list | tuple | Tensor):
        raise InputError(f"{place}: it holds no tensors but one {type(content).__name__}; give a file of weights")
    _check_expansion(place, content)
    return _Copy(place, max_bytes).copy(content)


def _check_archive(place: str, file: BinaryIO) -> None:
    """Nothing in the archive expands, overlaps, points elsewhere or is damaged; its numbers are as long as it says."""
    n_bytes = file.seek(0, io.SEEK_END)
    _check_directory(place, file, n_bytes)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            top = _check_entries(place, archive, n_bytes)
            damaged = archive.testzip()
            if damaged is not None:
                raise InputError(f"{place} is damaged: the checksum of {damaged!r} is wrong; download it again")
            storages = scan_pickle(io.BytesIO(archive.read(f"{top}/data.pkl")), place=place)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place} is truncated or damaged: not a whole zip archive ({error})") from error
    for storage in storages:
        entry = entries.get(f"{top}/data/{storage.key}")
        _check_length(place, storage, -1 if entry is None else entry.file_size)


def _check_directory(place: str, file: BinaryIO, n_bytes: int) -> None:
    """The archive's list of entries ends the file and is small: zipfile holds all of it in memory.

    The offsets are those of the zip specification, APPNOTE 6.3 sections 4.3.14 to 4.3.16.
    """
    file.seek(max(0, n_bytes - _END_BYTES))
    end = file.read(_END_BYTES).rjust(_END_BYTES, b"\0")
    if end[-22:-18] != b"PK\x05\x06":
        raise InputError(f"{place} is truncated or damaged: a zip archive without its end; download it again")
    size = int.from_bytes(end[-10:-6], "little")
    if end[:4] == b"PK\x06\x06" and end[-42:-38] == b"PK\x06\x07":
        size = int.from_bytes(end[40:48], "little")
    if size > MAX_DIRECTORY_BYTES:
        raise InputError(f"{place}: an archive with a list of entries of {size:,} bytes, which is refused unread")


def _check_entries(place: str, archive: zipfile.ZipFile, n_bytes: int) -> str:
    """The folder that all entries are in; each is stored as it is, once, under a plain name."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{place}: an archive of {len(entries):,} entries, at most {MAX_ENTRIES:,} are read")
    for entry in entries:
        parts = entry.filename.split("/")
        if ".." in parts or "" in parts or any(mark in entry.filename for mark in _STRANGE_IN_NAMES):
            raise InputError(f"{place}: its entry {entry.filename[:200]!r} is named like a path out of the archive")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise InputError(
                f"{place}: its entry {entry.filename[:200]!r} is compressed ({entry.compress_size:,} bytes for "
                f"{entry.file_size:,}), which torch.save never does; it is refused unread"
            )
    if sum(entry.file_size for entry in entries) > n_bytes:
        raise InputError(f"{place}: its entries overlap: together they are larger than the file; it is refused unread")
    names = [entry.filename.casefold() for entry in entries]
    tops = {entry.filename.split("/")[0] for entry in entries}
    top = min(tops, default="")
    if len(set(names)) < len(names) or len(tops) != 1 or f"{top}/data.pkl" not in {e.filename for e in entries}:
        raise InputError(f"{place}: a zip archive, but not one of torch.save: it must hold one folder with data.pkl")
    if any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            f"{place}: a TorchScript program; save the weights alone, torch.save(model.state_dict(), path)"
        )
    if archive.getinfo(f"{top}/data.pkl").file_size > MAX_PICKLE_BYTES:
        raise InputError(f"{place}: its data.pkl is larger than {MAX_PICKLE_BYTES:,} bytes; save the weights alone")
    return top


def _check_old_format(place: str, file: BinaryIO) -> None:
    """The five pickles do nothing but name tensors, whose numbers follow."""
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    stream = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    storages = [storage for _ in range(_N_OLD_PICKLES) for storage in scan_pickle(stream, place=place)]
    left = n_bytes - stream.tell()
    for storage in storages:
        left -= 8 + storage.n_items * storage.item_bytes  # each stands behind its length
    if left < 0:
        raise InputError(f"{place} is truncated or damaged: its tensors are larger than the file; download it again")


def _check_length(place: str, storage: StoredNumbers, n_bytes: int) -> None:
    if n_bytes != storage.n_items * storage.item_bytes:
        found = "are missing" if n_bytes < 0 else f"have {n_bytes:,} bytes"
        raise InputError(
            f"{place} is damaged: its numbers {storage.key!r} should have {storage.n_items} times "
            f"{storage.item_bytes} bytes, but {found}; download it again"
        )


def _check_expansion(place: str, content: Any) -> None:
    """A pickle can hold a list ten times in another, forty times over, in a few bytes; written out it is endless."""
    measured: dict[int, tuple[int, int]] = {}

    def measure(value: Any, depth: int) -> tuple[int, int]:
        """Its number of values and its depth, when every repetition is written out; each is looked at once."""
        if not isinstance(value, dict | list | tuple):
            return 1, 0
        if depth > MAX_DEPTH:
            raise InputError(f"{place}: its content is nested more than {MAX_DEPTH} deep, or in itself; {_FIX}")
        if id(value) not in measured:
            parts = [measure(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)]
            measured[id(value)] = 1 + sum(n for n, _ in parts), 1 + max((height for _, height in parts), default=0)
        return measured[id(value)]

    n_values, height = measure(content, 0)
    if n_values > MAX_CONTENT_VALUES or height > MAX_DEPTH:
        raise InputError(
            f"{place}: its content expands to more than {MAX_CONTENT_VALUES:,} values or is too deep; {_FIX}"
        )


class _Copy:
    """Copies what was loaded, so that only plain things are left, of bounded size, that share nothing."""

    def __init__(self, place: str, max_bytes: int) -> None:
        self.place, self.max_bytes = place, max_bytes
        self.n_bytes = 0

    def copy(self, value: Any) -> Any:
        """A plain copy of a value and all in it."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, dict):
            return {self._key(key): self.copy(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.copy(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self.copy(item) for item in value)
        if isinstance(value, torch.dtype | torch.device):
            return str(value).removeprefix("torch.")
        if isinstance(value, PickledNumber):
            return value.value
        if isinstance(value, PickledSettings):
            _check_expansion(self.place, value.settings)
            copied = PickledSettings()
            copied.settings = self.copy(value.settings)
            return copied
        raise InputError(f"{self.place}: it holds a {type(value).__name__}, not only tensors, numbers and strings")

    def _key(self, key: Any) -> Any:
        return key.decode("utf-8", "replace") if isinstance(key, bytes) else key

    def _tensor(self, tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
            raise InputError(f"{self.place}: it holds a sparse, quantized, complex or empty-handed (meta) tensor")
        self.n_bytes += tensor.numel() * tensor.element_size()
        if self.n_bytes > self.max_bytes:
            raise InputError(f"{self.place}: its tensors have more than {self.max_bytes:,} bytes together")
        return tensor.detach().clone(memory_format=torch.contiguous_format)
