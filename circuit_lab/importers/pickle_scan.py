"""Reads what a pickle of torch.save would do, without doing it.

torch.load with `weights_only=True` runs no code of a file, but believes its numbers: it may allocate what a few bytes
ask for, and read past the end of what the file holds. So each operation is first followed here on inert values. Only
names that a state dict needs are allowed, every tensor must lie in its storage, and keys must be plain.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from circuit_lab.errors import InputError
from circuit_lab.importers.pickle_stand_ins import NUMBER_CODES, NUMPY_DTYPE, NUMPY_SCALARS, SETTINGS_CLASSES

MAX_OPERATIONS = 500_000
"""A state dict needs about 40 a tensor; a list of losses, one a number."""
MAX_MARKS = 200
_ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_ALLOWED = frozenset(
    {
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        *(f"torch.{name}" for name in (*_ITEM_BYTES, *_DTYPES)),
        "_codecs.encode",
        NUMPY_DTYPE,
        *NUMPY_SCALARS,
        *SETTINGS_CLASSES,
    }
)
_FIX = 'save the weights alone, torch.save(model.state_dict(), "weights.pt"), and read that file'


@dataclass(frozen=True)
class StoredNumbers:
    """A storage that a pickle refers to.

    Attributes:
        key: Its name in the file.
        n_items: How many numbers the pickle says it has.
        item_bytes: Bytes of each.
    """

    key: str
    n_items: int
    item_bytes: int


@dataclass(frozen=True)
class _Name:
    """A class or function, by its name only."""

    name: str


class _Thing:
    """A list, dict, tensor or other object, of which only that it is there matters."""


_SIMPLE: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": _Thing,
    "EMPTY_DICT": _Thing,
}
_WITH_VALUE = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_N_TAKEN = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}


def scan_pickle(stream: io.BytesIO, *, place: str) -> list[StoredNumbers]:
    """Follow one pickle, which starts where the stream stands, to its end.

    Args:
        stream: The bytes; left standing behind the pickle.
        place: The file, for messages.

    Returns:
        Each storage it refers to, once.

    Raises:
        InputError: If it is damaged, too long, or does anything that a state dict does not need.
    """
    scan = _Scan(place)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPERATIONS:
                raise InputError(f"{place}: its pickle has more than {MAX_OPERATIONS:,} operations; {_FIX}")
            scan.follow(operation.name, argument)
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, UnicodeError) as error:
        raise InputError(
            f"{place} is truncated or damaged: its pickle breaks off or makes no sense ({error})"
        ) from error
    return list(scan.storages.values())


class _Scan:
    """The stack, the marks and the memo of a pickle, holding inert values."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StoredNumbers] = {}

    def follow(self, name: str, argument: Any) -> None:
        """Do to the inert values what an operation would do to real ones."""
        if name in _SIMPLE:
            self.stack.append(_SIMPLE[name]())
        elif name in _WITH_VALUE:
            self.stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.stack.append(_Name(self._allowed(argument.replace(" ", "."))))
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
            self._require(len(self.marks) <= MAX_MARKS, f"values nested more than {MAX_MARKS} deep")
        elif name in _TUPLES:
            n = _TUPLES[name]
            self.stack[-n:] = [tuple(self.stack[-n:])]
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            self._close_mark(name)
        elif name in _N_TAKEN:
            self._change_last(name)
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = self.stack.pop()
            self.stack[-1] = self._call(self.stack[-1], arguments)
        elif name == "BINPERSID":
            self.stack[-1] = self._storage(self.stack[-1])
        elif name not in ("PROTO", "STOP"):
            raise InputError(f"{self.place}: its pickle uses {name}, which torch.save never writes; {_FIX}")

    def _allowed(self, name: str) -> str:
        if name not in _ALLOWED:
            raise InputError(f"{self.place}: it holds an object of {name}, not only tensors and numbers; {_FIX}")
        return name

    def _close_mark(self, name: str) -> None:
        items, self.stack = self.stack, self.marks.pop()
        if name == "TUPLE":
            self.stack.append(tuple(items))
        elif name == "SETITEMS":
            self._check_keys(items[::2])

    def _change_last(self, name: str) -> None:
        taken = [self.stack.pop() for _ in range(_N_TAKEN[name])]
        if name == "SETITEM":
            self._check_keys(taken[1:])

    def _check_keys(self, keys: list[Any]) -> None:
        """A nested tuple takes exponential time to hash."""
        for key in keys:
            if not isinstance(key, str | int | float | bytes | None):
                raise InputError(f"{self.place}: a dict in it has a key that is no name or number; {_FIX}")

    def _call(self, called: Any, arguments: Any) -> Any:
        """The inert result of a call, whose arguments must be those that torch.save writes."""
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise InputError(f"{self.place}: its pickle calls what is no function; {_FIX}")
        if called.name == "torch._utils._rebuild_tensor_v2":
            self._check_tensor(*arguments[:4])
        elif called.name == "torch._utils._rebuild_parameter":
            is_right = len(arguments) == 3 and isinstance(arguments[0], _Thing)
            self._require(is_right, "a parameter of something that is no tensor")
        elif called.name == "torch.Size":
            self._require(len(arguments) == 1 and isinstance(arguments[0], tuple), "a size that is no row of numbers")
        elif called.name == "torch.device":
            self._require(all(isinstance(part, str | int) for part in arguments), "a device that is no name")
        elif called.name == "_codecs.encode":
            self._require(len(arguments) == 2 and arguments[1] == "latin1", "an encoding other than latin1")
        elif called.name == NUMPY_DTYPE:
            self._require(bool(arguments) and arguments[0] in NUMBER_CODES, "numpy data that is no number")
        elif called.name in NUMPY_SCALARS:
            self._require(all(isinstance(part, _Thing) for part in arguments), "a numpy number without its bytes")
        else:
            self._require(arguments == (), f"a call of {called.name} with arguments")
        return _Thing()

    def _check_tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> None:
        """Every number of a tensor lies in its storage."""
        parts = (offset, *size, *stride)
        is_right = isinstance(storage, StoredNumbers) and len(size) == len(stride)
        self._require(is_right and all(type(n) is int and n >= 0 for n in parts), "a tensor without a whole shape")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        self._require(0 in size or last < storage.n_items, "a tensor that reaches beyond its numbers")

    def _storage(self, reference: Any) -> StoredNumbers:
        """The storage that ("storage", type, key, device, n, ...) refers to."""
        self._require(
            isinstance(reference, tuple) and 5 <= len(reference) <= 6, "a reference that torch.save never writes"
        )
        kind, storage_type, key, device, n_items, *view = reference
        is_right = (
            kind in ("storage", b"storage")
            and isinstance(storage_type, _Name)
            and isinstance(key, str)
            and isinstance(device, str)
            and type(n_items) is int
            and n_items >= 0
            and view in ([], [None])
        )
        self._require(is_right, "a reference to numbers that torch.save never writes")
        item_bytes = _ITEM_BYTES.get(storage_type.name.removeprefix("torch."))
        self._require(item_bytes is not None, f"numbers of the type {storage_type.name}, which is not supported")
        assert item_bytes is not None
        found = StoredNumbers(key, n_items, item_bytes)
        self._require(self.storages.setdefault(key, found) == found, f"two sizes of the numbers {key!r}")
        return found

    def _require(self, is_right: bool, problem: str) -> None:
        if not is_right:
            raise InputError(f"{self.place}: it holds {problem}; {_FIX}")
