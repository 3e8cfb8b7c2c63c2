"""Checkpoint files whose record or tensors were changed, with or without the hash that belongs to the change."""

import json

import safetensors.torch

from circuit_lab.training.checkpoint_format import METADATA_KEY, file_hash


def read_raw(file):
    """The record and the tensors of a checkpoint file, unchecked."""
    with safetensors.safe_open(file, framework="pt") as opened:
        record = json.loads(opened.metadata()[METADATA_KEY])
        return record, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def write_raw(file, record, tensors):
    file.write_bytes(safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(record)}))
    return file


def rewrite(file, change=None, *, hashed=True, **tensor_changes):
    """The file with its record, or its tensors, changed, by someone who also corrects the file's hash, or does not."""
    record, tensors = read_raw(file)
    if change is not None:
        change(record)
    for name, value in tensor_changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    if hashed and "file_hash" in record:
        record["file_hash"] = file_hash(record, tensors)
    return write_raw(file, record, tensors)


def set_field(name, value):
    """A change: one field of the record gets another value."""
    return lambda record: record.__setitem__(name, value)
