"""Reading safetensors files from anyone: the header is bounded and checked before the tensors are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.tasks.safe_files import file_kind, open_regular

MAX_FILE_BYTES = 4 * 2**30
MAX_HEADER_BYTES = 16 * 2**20
"""Names, shapes and metadata: a thousand times what a checkpoint has."""
_PREFIX_BYTES = 8
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def read_tensors(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file.

    Args:
        path: The file.
        max_bytes: Larger files are refused unread.

    Returns:
        Metadata (empty if there is none) and tensors by name, on the CPU.

    Raises:
        InputError: If the file is missing, too large, truncated, no safetensors file, or holds a type of numbers that
            is not supported.
    """
    if file_kind(path, what="checkpoint") == "folder":
        raise InputError(f"no checkpoint at {path}: it is a folder; give the .safetensors file in it")
    with open_regular(path, what="checkpoint", max_bytes=max_bytes) as file:
        prefix = file.read(_PREFIX_BYTES)
        header_bytes = file.read(_header_length(path, prefix))
        header = _parse_header(path, header_bytes)
        content = prefix + header_bytes + file.read()
    try:
        return dict(header.get("__metadata__") or {}), safetensors.torch.load(content)
    except (SafetensorError, ValueError, TypeError, OverflowError, RuntimeError, MemoryError) as error:
        raise InputError(_not_safetensors(path, f"{error}")) from error


def _header_length(path: Path, prefix: bytes) -> int:
    """Bytes of the header, which the file starts with."""
    if len(prefix) < _PREFIX_BYTES:
        found = "it is empty (0 bytes)" if not prefix else f"it ends after {len(prefix)} bytes"
        raise InputError(_not_safetensors(path, found))
    n = int.from_bytes(prefix, "little")
    if n > MAX_HEADER_BYTES:
        raise InputError(
            _not_safetensors(path, f"its header claims {n:,} bytes, at most {MAX_HEADER_BYTES:,} are read")
        )
    return n


def _parse_header(path: Path, content: bytes) -> dict[str, Any]:
    """The header: metadata, and type, shape and place of each tensor, of types that are supported."""
    try:
        header = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(_not_safetensors(path, f"its header is not JSON: {error}")) from error
    if not isinstance(header, dict) or not _is_metadata(header.get("__metadata__", {})):
        raise InputError(_not_safetensors(path, "its header is no table of tensors"))
    for name, entry in header.items():
        dtype = entry.get("dtype") if name != "__metadata__" and isinstance(entry, Mapping) else _DTYPES[0]
        if dtype not in _DTYPES:
            raise InputError(
                f"{path}: tensor {name[:200]!r} is of type {str(dtype)[:80]!r}, which is not supported; "
                "convert it to float32"
            )
    return header


def _is_metadata(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())


def _not_safetensors(path: Path, reason: str) -> str:
    reason = " ".join(reason.split())
    return f"{path} is truncated or not a safetensors file: {reason[:300]}; copy or download it again"
