"""Files that look like torch.save's, around any pickle; and pickles written operation by operation."""

import io
import pickle
import struct
import zipfile

from circuit_lab.importers.torch_files import OLD_MAGIC

MIB = 2**20


def zip_file(data_pkl, *, storages=(), compression=zipfile.ZIP_STORED, extra=()):
    """A zip archive as torch.save writes it, with these bytes as its pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/version", "3\n")
        for key, content in dict(storages).items():
            archive.writestr(f"archive/data/{key}", content)
        for name, content in extra:
            archive.writestr(name, content)
    return stream.getvalue()


def old_file(main_pickle, *, storages=()):
    """A file as torch.save wrote it before version 1.6, with these bytes as its main pickle."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, protocol=2) for part in (1001, info)]
    keys = pickle.dumps(sorted(dict(storages)), protocol=2)
    numbers = b"".join(struct.pack("<q", len(raw) // 4) + raw for _, raw in sorted(dict(storages).items()))
    return OLD_MAGIC + b"".join(parts) + main_pickle + keys + numbers


def text(value):
    """The operation that puts a string on the stack."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    """The operations that put a whole number, or a tuple of them, on the stack."""
    if isinstance(value, tuple):
        return b"(" + b"".join(number(each) for each in value) + b"t"
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module, of):
    """The operation that puts a class or function on the stack."""
    return f"c{module}\n{of}\n".encode()


def call(module, of, *arguments):
    """The operations that call something with arguments, given as operations."""
    return name(module, of) + b"(" + b"".join(arguments) + b"t" + b"R"


def storage(n, *, key="0", kind="FloatStorage", old=False):
    """The operations that refer to numbers of the file."""
    view = b"N" if old else b""
    parts = (text("storage"), name("torch", kind), text(key), text("cpu"), number(n), view)
    return b"(" + b"".join(parts) + b"tQ"


def tensor(n, *, size, stride, offset=0, old=False, key="0"):
    """The operations that make a tensor of numbers of the file."""
    hooks = call("collections", "OrderedDict")
    parts = (storage(n, old=old, key=key), number(offset), number(size), number(stride), b"\x89", hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *parts)


def whole(*operations):
    """A pickle of protocol 2."""
    return b"\x80\x02" + b"".join(operations) + b"."


def dict_of(value):
    """The operations that make {"w": value}."""
    return b"}" + text("w") + value + b"s"
