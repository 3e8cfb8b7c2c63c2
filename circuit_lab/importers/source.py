"""Reads other people's files as inert data, whatever is in them.

What a file is, its first bytes say, not its name: safetensors, or torch.save's zip archive or older format. All else
is refused. Nothing in a file is run, nothing expands, and only tensors, numbers and strings come out.
"""

from pathlib import Path
from typing import Any

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Source
from circuit_lab.importers.pickle_stand_ins import PickledSettings
from circuit_lab.importers.torch_files import OLD_MAGIC, read_torch_file
from circuit_lab.tasks.safe_files import check_inside, file_kind, open_regular
from circuit_lab.training.tensor_files import MAX_FILE_BYTES, read_tensors

__all__ = ["MAX_FILE_BYTES", "PickledSettings", "check_inside", "read_source", "read_weights"]

_ZIP_MAGIC = b"PK\x03\x04"
_FORMATS = "a .safetensors file, a file of torch.save, or a folder"


def read_source(path: str | Path, *, max_bytes: int = MAX_FILE_BYTES) -> Source:
    """Read a foreign checkpoint.

    Args:
        path: A file, or a folder, of which nothing is read yet.
        max_bytes: Larger files are refused unread.

    Returns:
        The source; its content holds nothing but tensors, numbers, strings, None and `PickledSettings`, in dicts,
        lists and tuples.

    Raises:
        InputError: If there is nothing, or nothing that can be read safely.
    """
    path = Path(path)
    kind = file_kind(path, what="checkpoint")
    if kind is None:
        raise InputError(f"no checkpoint at {path}: there is no such file or folder; give {_FORMATS}")
    if kind == "folder":
        return Source(path, None)
    content, metadata = read_weights(path, max_bytes=max_bytes)
    return Source(path, content, metadata)


def read_weights(file: Path, *, max_bytes: int = MAX_FILE_BYTES) -> tuple[Any, dict[str, str]]:
    """Read one file of weights.

    Args:
        file: The file.
        max_bytes: Larger files are refused unread, and so are tensors that have more together.

    Returns:
        Its content, and the metadata of a safetensors file (empty for others).

    Raises:
        InputError: If it cannot be read, is damaged or too large, is none of the formats, or holds more than data.
    """
    with open_regular(file, what="checkpoint", max_bytes=max_bytes) as opened:
        start = opened.read(len(OLD_MAGIC))
        if start[8:9] == b"{":
            metadata, tensors = read_tensors(file, max_bytes=max_bytes)
            return tensors, metadata
        if start.startswith(_ZIP_MAGIC) or start == OLD_MAGIC:
            is_zip = start.startswith(_ZIP_MAGIC)
            return read_torch_file(file, opened, is_zip=is_zip, max_bytes=max_bytes), {}
    found = "it is empty (0 bytes)" if not start else f"it starts with {start[:8]!r}"
    if start.startswith(b"\x80"):
        found += ", a pickle that torch.save did not write and that is not read"
    raise InputError(f"{file} is truncated or of no known format: {found}; give {_FORMATS}")
