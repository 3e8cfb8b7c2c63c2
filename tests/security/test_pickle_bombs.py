"""Files of torch.save that would run code, or take all memory or time: refused in seconds, with nothing run."""

import json
import os
import pickle
import struct
import time

import pytest
import torch
from forked_child import limit_memory, outcome_in_child
from hostile_torch_files import (
    MIB,
    call,
    dict_of,
    name,
    number,
    old_file,
    storage,
    tensor,
    text,
    whole,
    zip_file,
)
from own_process import run_alone

from circuit_lab.errors import InputError
from circuit_lab.importers import pickle_scan
from circuit_lab.importers.source import read_source

RAW = bytes(40)
RAW_STORAGES = {"0": RAW}


def nested(n_levels, width, kind):
    """Lists (or tuples) of the one before, `width` times: width ** n_levels values in a few bytes."""
    operations = [b"]" if kind == "list" else b")"]
    for level in range(n_levels):
        get = b"h" + bytes([level])
        put = b"q" + bytes([level])
        again = b"]" + b"(" + get * width + b"e" if kind == "list" else b"(" + get * width + b"t"
        operations += [put, again]
    return b"".join(operations)


SAY = "this would have run"
RUNS = {
    "os.system": whole(call("posix", "system", text("touch {mark}"))),
    "eval": whole(call("builtins", "eval", text("open('{mark}', 'w')"))),
    "an old name of eval": whole(call("__builtin__", "eval", text("open('{mark}', 'w')"))),
    "a method of torch": whole(call("torch.serialization", "load", text("{mark}"))),
    "import by stack": b"\x80\x04" + text("posix") + text("system") + b"\x93" + text("touch {mark}") + b"\x85R.",
    "INST": b"\x80\x02(" + text("touch {mark}") + b"iposix\nsystem\n.",
    "OBJ": b"\x80\x02(" + name("posix", "system") + text("touch {mark}") + b"o.",
    "EXT1": b"\x80\x02\x82\x01)R.",
    "an object's class": whole(name("torch.nn.modules.linear", "Linear"), b")\x81}b"),
    "a protocol 0 global": b"cposix\nsystem\n(S'touch {mark}'\ntR.",
    "NEWOBJ_EX": b"\x80\x04" + name("subprocess", "Popen") + b")}\x92.",
}
GROWS = {
    "lists of lists": whole(nested(40, 10, "list")),
    "tuples of tuples": whole(nested(40, 10, "tuple")),
    "a tuple of tuples as key": whole(nested(40, 10, "tuple"), b"q\x28", b"}h\x28Ns"),
    "settings that repeat": whole(
        name("transformer_lens.HookedTransformerConfig", "HookedTransformerConfig"),
        b")\x81q\x64",
        b"}q\x65" + text("a") + nested(40, 10, "list") + b"q\x66" + b"h\x64h\x65" + text("a") + b"h\x66sbq\x67",
        b"}" + text("config") + b"h\x67s",
    ),
    "a list in itself": whole(b"]q\x00h\x00a"),
    "a deep list": whole(b"]" * 1000 + b"a" * 999),
    "a list of ever deeper lists": whole(
        b"]q\x00(" + b"".join(b"](h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(200)) + b"e"
    ),
    "a deep tuple": whole(b")" + b"\x85" * 1000),
    "many marks": whole(b"(" * 1000),
    "many values": whole(b"(" + b"N" * 30_000 + b"t"),
    "LONG4": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "a LONG4 of a megabyte": b"\x80\x02\x8b" + struct.pack("<i", MIB) + b"\x7f" * MIB + b".",
    "a LONG of digits": b"\x80\x02L" + b"9" * MIB + b"L\n.",
    "BINBYTES8": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "BINUNICODE": whole(b"X" + struct.pack("<I", 2**32 - 1) + b"x"),
    "FRAME": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a far memo": whole(b"Nr" + struct.pack("<I", 2**32 - 1)),
    "bytearray(10 GB)": whole(call("builtins", "bytearray", number(10**10))),
    "torch.Tensor(10^6, 10^6)": whole(call("torch", "Tensor", number(10**6), number(10**6))),
    "Counter": whole(call("collections", "Counter", nested(6, 10, "tuple"))),
    "OrderedDict of a tuple": whole(call("collections", "OrderedDict", nested(40, 10, "tuple"))),
    "set": whole(call("builtins", "set", nested(40, 10, "tuple"))),
}
LONG = {
    "a very deep list": whole(b"]" * 249_000 + b"a" * 248_999),
    "a very deep tuple": whole(b")" + b"\x85" * 499_000),
    "very many marks": whole(b"(" * 499_000),
    "too many values": whole(b"(" + b"N" * 30_000_000 + b"t"),
}
"""What takes long to follow; measured without the type checks that the tests otherwise run with."""
TENSORS = {
    "a terabyte of one number": (10, {"size": (10**6, 10**6), "stride": (0, 0)}),
    "many dimensions": (10, {"size": (2,) * 60, "stride": (0,) * 60}),
    "more than there is": (10, {"size": (11,), "stride": (1,)}),
    "far away": (10, {"size": (1,), "stride": (1,), "offset": 10**9}),
    "before the start": (10, {"size": (2,), "stride": (-1,), "offset": 1}),
    "a negative size": (10, {"size": (-2,), "stride": (1,)}),
    "a jump": (10, {"size": (2, 2), "stride": (10**15, 1)}),
    "numbers that are not there": (10**12, {"size": (10,), "stride": (1,)}),
    "a few more numbers": (12, {"size": (12,), "stride": (1,)}),
    "a negative count": (-10, {"size": (0,), "stride": (1,)}),
    "a missing part": (10, {"size": (1,), "stride": (1,), "key": "1"}),
}
STRANGE = {
    "a path as key": dict_of(storage(10, key="../../../etc/passwd")),
    "complex numbers": dict_of(storage(5, kind="ComplexFloatStorage")),
    "quantized numbers": dict_of(storage(10, kind="QInt32Storage")),
    "a storage without a tensor": dict_of(storage(10)),
    "a sparse tensor": dict_of(call("torch._utils", "_rebuild_sparse_tensor")),
    "a tensor of text": dict_of(call("torch._utils", "_rebuild_tensor_v2", *[text("x")] * 6)),
    "a call of a number": dict_of(number(3) + b")R"),
    "an empty stack": b"R",
    "settings that are a list": dict_of(
        name("transformer_lens.HookedTransformerConfig", "HookedTransformerConfig") + b")\x81]b"
    )
    + b"QQ",
}


def files(folder):
    """Every bomb in both formats, by name; a whole file of each format, for comparison."""
    mark = str(folder / "mark")
    pickles = {title: raw.replace(b"{mark}", mark.encode()) for title, raw in (RUNS | GROWS).items()}
    # The length of a string stands before it.
    pickles |= {title: relength(raw, mark) for title, raw in RUNS.items()}
    pickles |= {title: whole(operations) for title, operations in STRANGE.items()}
    made = {f"{title}, zip": zip_file(raw, storages=RAW_STORAGES) for title, raw in pickles.items()}
    made |= {f"{title}, old": old_file(raw) for title, raw in pickles.items()}
    for title, (n, shape) in TENSORS.items():
        made[f"{title}, zip"] = zip_file(whole(dict_of(tensor(n, **shape))), storages=RAW_STORAGES)
        made[f"{title}, old"] = old_file(whole(dict_of(tensor(n, old=True, **shape))), storages=RAW_STORAGES)
    return made


def relength(raw, mark):
    """A pickle with the mark's path in its strings, whose lengths are corrected."""
    for told in ("touch {mark}", "open('{mark}', 'w')", "{mark}"):
        raw = raw.replace(text(told), text(told.replace("{mark}", mark)))
    return raw.replace(b"{mark}", mark.encode())


def read_all(folder, made):
    """Outcome and seconds of reading each file, in one child that may take 1 GB more."""

    def read_each():
        limit_memory(2**30)
        outcomes = {}
        for title, content in made.items():
            path = folder / "bomb.pt"
            path.write_bytes(content)
            start = time.perf_counter()
            try:
                read_source(path)
                outcome = "loaded"
            except InputError as error:
                outcome = f"refused: {error}"
            except BaseException as error:
                outcome = f"{type(error).__name__}: {error}"
            outcomes[title] = (outcome[:300], time.perf_counter() - start)
        (folder / "outcomes.json").write_text(json.dumps(outcomes))
        return "done"

    assert outcome_in_child(read_each, seconds=120.0) == "done"
    return json.loads((folder / "outcomes.json").read_text())


def test_no_bomb_runs_grows_or_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_scan, "MAX_OPERATIONS", 20_000)  # type checks make each of them slow in tests
    made = files(tmp_path)
    outcomes = read_all(tmp_path, made)
    wrong = {title: told for title, told in outcomes.items() if not told[0].startswith("refused: ") or told[1] > 5.0}
    assert wrong == {} and outcomes.keys() == made.keys()
    assert not (tmp_path / "mark").exists()
    assert all("\n" not in outcome for outcome, _ in outcomes.values())
    expected = {
        "os.system, zip": "holds an object of posix.system, not only tensors and numbers; save the weights alone",
        "os.system, old": "holds an object of posix.system",
        "lists of lists, zip": "its content expands to more than 2,000,000 values",
        "settings that repeat, zip": "its content expands to more than 2,000,000 values",
        "a list in itself, zip": "nested more than 50 deep, or in itself",
        "a far memo, zip": "it holds no tensors but one NoneType",
        "many values, zip": "its pickle has more than 20,000 operations",
        "a terabyte of one number, zip": "its tensors have more than 4,294,967,296 bytes together",
        "more than there is, zip": "a tensor that reaches beyond its numbers",
        "a few more numbers, zip": "its numbers '0' should have 12 times 4 bytes, but have 40 bytes",
        "numbers that are not there, old": "its tensors are larger than the file",
        "a missing part, zip": "its numbers '1' should have 10 times 4 bytes, but are missing",
        "bytearray(10 GB), old": "holds an object of builtins.bytearray",
        "a tuple of tuples as key, zip": "has a key that is no name or number",
        "complex numbers, zip": "holds an object of torch.ComplexFloatStorage",
    }
    for title, message in expected.items():
        assert message in outcomes[title][0], (title, outcomes[title])


MEASURE = """
import resource, sys, time
from pathlib import Path
from circuit_lab.importers.source import read_source
from circuit_lab.errors import InputError
pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 2**30, pages + 2**30))
result = {}
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        outcome = str(type(read_source(path)))
    except InputError as error:
        outcome = f"refused: {error}"
    result[Path(path).stem] = (outcome, time.process_time() - start)
"""


@pytest.mark.slow
def test_long_bombs_are_refused_in_seconds(tmp_path):
    paths = []
    for title, raw in LONG.items():
        for kind, make in (("zip", zip_file), ("old", old_file)):
            paths.append(tmp_path / f"{title}, {kind}.pt")
            paths[-1].write_bytes(make(raw))
    _, outcomes = run_alone(MEASURE, *map(str, paths))
    wrong = {title: told for title, told in outcomes.items() if not told[0].startswith("refused: ") or told[1] > 5.0}
    assert wrong == {} and len(outcomes) == 2 * len(LONG)


def test_the_same_ways_of_writing_load_what_is_harmless(tmp_path):
    """The bombs are refused for what they do, not for how these tests write files."""
    shape = {"size": (2, 3), "stride": (3, 1), "offset": 1}
    numbers = torch.arange(10.0)
    raw = numbers.numpy().tobytes()
    for content in (
        zip_file(whole(dict_of(tensor(10, **shape))), storages={"0": raw}),
        old_file(whole(dict_of(tensor(10, old=True, **shape))), storages={"0": raw}),
    ):
        path = tmp_path / "fine.pt"
        path.write_bytes(content)
        assert torch.equal(read_source(path).content["w"], numbers[1:7].reshape(2, 3))


def test_the_bombs_are_bombs(tmp_path):
    """Pickle runs the first; torch.load, even with weights_only, takes the memory that the others ask for."""
    mark = tmp_path / "mark"
    outcome_in_child(lambda: pickle.loads(relength(RUNS["os.system"], str(mark))))
    assert mark.exists()
    mark.unlink()

    def load_with_torch(content):
        def load():
            path = tmp_path / "bomb.pt"
            path.write_bytes(content)
            limit_memory(2**30)
            return torch.load(path, weights_only=True)

        return outcome_in_child(load, seconds=1.0)

    assert load_with_torch(zip_file(GROWS["bytearray(10 GB)"])).startswith("MemoryError")
    assert load_with_torch(zip_file(GROWS["a tuple of tuples as key"])) == "hung"


def test_an_object_saved_by_torch_itself_is_refused_by_name(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'mark'}",))

    for content in (torch.nn.Linear(2, 3), {"model": {"w": torch.ones(2)}, "more": Bomb()}):
        for is_zip in (True, False):
            torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
            with pytest.raises(
                InputError, match=r"an object of (posix.system|torch.nn.modules.linear.Linear), not only"
            ):
                read_source(tmp_path / "a.pt")
    assert not (tmp_path / "mark").exists()
