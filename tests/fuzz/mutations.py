"""Damage to files, steered by bytes: flipped bits, and changes of values that keep the outer form intact."""

import copy
import io
import json
import struct
import zipfile
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_DEEP: list[Any] = []
for _ in range(200):
    _DEEP = [_DEEP]
NASTY: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        3,
        255,
        2**31,
        2**63,
        2**64,
        10**30,
        0.0,
        -0.5,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "x",
        "0",
        "\0",
        "\ud800",
        "é\u202e",
        "../../etc/passwd",
        "/dev/zero",
        "<e_1>",
        "<script>",
        "a\nb",
        "9" * 5000,
    ),
    *([], {}, [0, 1], [[]], {"kind": "x"}, {"": 0}, _DEEP, list(range(300)), {str(n): n for n in range(50)}),
)


class Choices:
    """Decisions read off bytes, one after the other; 0 once they are used up, so that every input means something.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def below(self, n: int) -> int:
        """A number from 0 to n - 1, of two bytes or four."""
        size = 2 if n <= 2**16 else 4
        part = self._data[self._place : self._place + size]
        self._place += size
        return int.from_bytes(part, "little") % max(n, 1)

    def pick(self, options: Sequence[T]) -> T:
        """One of several."""
        return options[self.below(len(options))]

    def take(self, n: int) -> bytes:
        """Bytes as they are."""
        part = self._data[self._place : self._place + n]
        self._place += n
        return part


def mutate_bytes(content: bytes, choices: Choices) -> bytes:
    """One to three of: a flipped bit, a byte set, a piece cut out, doubled, put in, or everything after a place cut."""
    changed = bytearray(content)
    for _ in range(1 + choices.below(3)):
        # Headers are small and stand first or last: look there more often.
        near = min(len(changed), 300)
        place = choices.pick(
            (choices.below(len(changed) + 1), choices.below(near + 1), max(len(changed) - choices.below(near + 1), 0))
        )
        kind, n = choices.below(6), 1 + choices.below(40)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << choices.below(8)
        elif kind == 1 and place < len(changed):
            changed[place] = choices.below(256)
        elif kind == 2:
            del changed[place : place + n]
        elif kind == 3:
            changed[place:place] = changed[place : place + n]
        elif kind == 4:
            changed[place:place] = choices.take(n)
        elif kind == 5:
            del changed[place:]
    return bytes(changed)


def mutate_value(value: Any, choices: Choices) -> Any:
    """A copy of nested dicts and lists with one to three places changed."""
    changed = [copy.deepcopy(value)]
    for _ in range(1 + choices.below(3)):
        parent, key = _some_place(changed, choices)
        kind = choices.below(8)
        if kind <= 2:
            parent[key] = copy.deepcopy(choices.pick(NASTY))
        elif kind == 3 and parent is not changed:
            del parent[key]
        elif kind == 4:
            other, its_key = _some_place(changed, choices)
            parent[key] = copy.deepcopy(other[its_key])
        elif kind == 5 and isinstance(parent, dict):
            parent[choices.pick(("", "x", "kind", "__metadata__", f"{key}s", key[:-1]))] = parent.pop(key)
        elif kind == 6 and isinstance(parent[key], int | float):
            parent[key] += choices.pick((1, -1, 0.5, 1000))
        elif kind == 7 and isinstance(parent[key], str):
            parent[key] = mutate_bytes(parent[key].encode("utf-8", "replace"), choices).decode("utf-8", "replace")
    return changed[0]


def _some_place(root: list[Any], choices: Choices) -> tuple[Any, Any]:
    """A container and a key in it, found by walking down."""
    parent, key = root, 0
    while isinstance(parent[key], dict | list) and parent[key] and choices.below(5) > 0:
        parent, inner = parent[key], parent[key]
        key = choices.pick(list(inner)) if isinstance(inner, dict) else choices.below(len(inner))
    return parent, key


def mutate_json(content: bytes, choices: Choices) -> bytes:
    """A JSON file: its bytes, or its values, or a key given twice, or with a byte order mark before it."""
    kind = choices.below(8)
    if kind == 0:
        return mutate_bytes(content, choices)
    if kind == 1:
        return b"\xef\xbb\xbf" + content
    if kind == 2:
        return content.replace(b"{", b'{"input_text": 1, ', 1 + choices.below(3))
    return json.dumps(mutate_value(json.loads(content), choices)).encode()


def split_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors' bytes of a safetensors file."""
    (n,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + n]), content[8 + n :]


def join_safetensors(header: Any, rest: bytes) -> bytes:
    """A safetensors file whose header has the right length, whatever it says."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def mutate_safetensors(content: bytes, choices: Choices) -> bytes:
    """A safetensors file: its bytes, its header's values, or its tensors' bytes."""
    kind = choices.below(4)
    if kind == 0:
        return mutate_bytes(content, choices)
    header, rest = split_safetensors(content)
    if kind == 1:
        return join_safetensors(header, mutate_bytes(rest, choices))
    return join_safetensors(mutate_value(header, choices), rest)


def mutate_tensors(content: Any, choices: Choices) -> Any:
    """Nested dicts with tensors in them: other shapes, types, names and values."""
    changed = mutate_value(content, choices) if choices.below(2) else copy.deepcopy(content)
    holders = [holder for holder in _dicts(changed) if any(isinstance(v, torch.Tensor) for v in holder.values())]
    for _ in range(choices.below(3) if holders else 0):
        holder = choices.pick(holders)
        names = [name for name, value in holder.items() if isinstance(value, torch.Tensor)]
        if names:
            name = choices.pick(names)
            holder[name] = _other_tensor(holder[name], choices)
    return changed


def _dicts(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    return [value, *(inner for part in value.values() for inner in _dicts(part))]


def _other_tensor(tensor: torch.Tensor, choices: Choices) -> torch.Tensor:
    if tensor.layout != torch.strided:
        return tensor  # few of the functions below take a sparse one
    kinds = {
        "transposed": lambda: tensor.mT.contiguous() if tensor.ndim > 1 else tensor[None],
        "empty": lambda: tensor.reshape(-1)[:0],
        "scalar": lambda: torch.tensor(1.0),
        "flat": lambda: tensor.reshape(-1),
        "nan": lambda: tensor * torch.nan,
        "float64": lambda: tensor.double(),
        "float16": lambda: tensor.half(),
        "bfloat16": lambda: tensor.bfloat16(),
        "int": lambda: tensor.long(),
        "bool": lambda: tensor.bool(),
        "complex": lambda: tensor.to(torch.complex64),
        "sparse": lambda: tensor.to_sparse(),
        "repeated": lambda: torch.ones(1).expand(10_000_000),
        "longer": lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor,
        "one_more_axis": lambda: tensor[None],
        "parameter": lambda: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor,
    }
    return kinds[choices.pick(list(kinds))]()


def torch_file(content: Any, *, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def mutate_torch_file(content: Any, choices: Choices) -> bytes:
    """A torch file: its content, its bytes, or the pickle in it under an intact zip."""
    kind = choices.below(5)
    if kind == 0:
        return mutate_bytes(torch_file(content, zipped=choices.below(3) > 0), choices)
    if kind == 1:
        return _with_other_pickle(torch_file(content), choices)
    return torch_file(mutate_tensors(content, choices), zipped=choices.below(4) > 0)


def _with_other_pickle(content: bytes, choices: Choices) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            inner = source.read(entry)
            target.writestr(entry.filename, mutate_bytes(inner, choices) if entry.filename.endswith(".pkl") else inner)
    return buffer.getvalue()
