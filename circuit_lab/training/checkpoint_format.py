"""The record of a checkpoint as JSON: its versions, its hashes, and the paths it may name."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from circuit_lab.errors import InputError, short
from circuit_lab.tasks.safe_files import climbs, without_climbing

FORMAT_VERSION = 2
METADATA_KEY = "circuit_lab"
_PATHS_OF_RECIPES = (("task", "path"), ("parent", "checkpoint"))


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, whatever the order."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_hash(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that a checkpoint file says: its record without the hash itself, and every tensor.

    Args:
        record: The record, as it is written; its `file_hash` is left out.
        tensors: Weights and fingerprint.

    Returns:
        64 hexadecimal digits, the same whatever the order of keys and tensors.
    """
    rest = json.loads(json.dumps({key: value for key, value in record.items() if key != "file_hash"}))
    return hashlib.sha256(f"{json.dumps(rest, sort_keys=True)}\n{weights_hash(tensors)}".encode()).hexdigest()


def parse_record(path: Path, text: str) -> dict[str, Any]:
    """The record as a table, of whatever version."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"checkpoint {path} is damaged: its metadata is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"checkpoint {path} is damaged: its metadata must be a JSON object, got {short(record)}")
    return record


def migrated(path: Path, record: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The record as the newest version has it."""
    version = record.get("format_version")
    if type(version) is not int:
        raise InputError(f"checkpoint {path}: format version {short(version)} is no whole number; the file is damaged")
    if version > FORMAT_VERSION:
        raise InputError(
            f"checkpoint {path}: format version {version} is newer than this circuit_lab reads "
            f"(up to {FORMAT_VERSION}); upgrade it: pip install --upgrade circuit-lab"
        )
    if version < FORMAT_VERSION and version not in _MIGRATIONS:
        raise InputError(
            f"checkpoint {path}: format version {version} is older than this circuit_lab reads (from "
            f"{min(_MIGRATIONS)}); load and save it with a release that reads it, see CHANGELOG.md"
        )
    while version < FORMAT_VERSION:
        record = _MIGRATIONS[version](record, tensors)
        version = record["format_version"]
    return record


def _from_version_1(record: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Version 1 knew neither foreign nets nor a hash over the whole file; weights and task have hashes of their own."""
    record = record | {"format_version": 2, "origin": None}
    return record | {"file_hash": file_hash(record, tensors)}


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any], Mapping[str, Tensor]], dict[str, Any]]] = {1: _from_version_1}
"""From each older version to the next."""


def recorded_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's tables, with the places of dataset and parent as they shall be read elsewhere."""
    recorded = dict(recipe)
    for table, key in _PATHS_OF_RECIPES:
        if isinstance(recorded.get(table), Mapping):
            recorded[table] = table_without_climbing(recorded[table], key)
    return recorded


def table_without_climbing(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table whose path, if it has one, goes nowhere up with `..`."""
    return {**table, key: without_climbing(table[key])} if isinstance(table.get(key), str) else dict(table)


def refuse_climbing_parent(path: Path, recipe: Mapping[str, Any]) -> None:
    """Refuse a recorded parent that is named by a path with `..`: it is looked for when a checkpoint is diagnosed."""
    parent = recipe.get("parent")
    place = parent.get("checkpoint") if isinstance(parent, dict) else None
    if isinstance(place, str) and climbs(place):
        raise InputError(
            f"checkpoint {path}: the path of its parent, {short(place)}, climbs with '..'; a checkpoint may name "
            "another only by a path without it, so get one that does"
        )


def first_problem(error: ValidationError) -> str:
    """The first thing that a config's check found, with its place and value."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return short(f"{place or 'it'}: {message} (got {short(repr(first['input']))})", length=600)
