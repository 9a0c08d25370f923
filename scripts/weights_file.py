"""Weights files as numpy arrays, without torch: safetensors, and what torch.save writes (.bin, .pth, .pt).

A file of torch.save is a pickle, which can name any function of any module. Here it is read by an unpickler that calls none
of them: tensors are put together, whatever else the file holds becomes an empty object.
"""

import hashlib
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np


class Unreadable(Exception):
    """What is wrong with the file, in words."""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def read(path):
    """All tensors of a file by name, as arrays; those of nested dictionaries as `outer.inner`. bfloat16 becomes float32."""
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04":
        tree = torch_zip(path)
    elif len(head) == 9 and head[8:] == b"{":
        return safetensors(path)
    elif head[:1] == b"\x80":
        tree = torch_legacy(path)
    else:
        raise Unreadable(f"{path.name} is neither safetensors nor a file of torch.save")
    tensors = {}
    flatten(tree, "", tensors)
    if not tensors:
        raise Unreadable(f"{path.name} holds no tensors")
    return tensors


def flatten(node, name, into):
    if isinstance(node, np.ndarray):
        into[name] = node
    elif isinstance(node, dict):
        for key, value in node.items():
            flatten(value, f"{name}.{key}" if name else str(key), into)


def widened(raw, kind):
    """Raw bytes of a tensor as numbers; numpy has no bfloat16."""
    if kind == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, kind)


# --- safetensors -----------------------------------------------------------------------------------------------------

SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4", "I16": "<i2",
               "I8": "i1", "U8": "u1", "BOOL": "?"}
BYTES = {"bfloat16": 2}


def safetensors(path):
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 100 << 20):
            raise Unreadable(f"{path.name}: a header of {length} bytes in a file of {size}")
        try:
            header = json.loads(file.read(length))
        except ValueError as e:
            raise Unreadable(f"{path.name}: its header is no JSON: {e}") from None
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind = SAFETENSORS.get(entry["dtype"])
        if kind is None:
            raise Unreadable(f"{path.name}: tensor {name} is of type {entry['dtype']}")
        start, end = entry["data_offsets"]
        wanted = int(np.prod(entry["shape"], dtype=np.int64)) * BYTES.get(kind, 0 if kind in BYTES else np.dtype(kind).itemsize)
        if not 0 <= start <= end <= len(data) or end - start != wanted:
            raise Unreadable(f"{path.name}: tensor {name} lies at {start} to {end} of {len(data)} bytes: damaged or cut off")
        tensors[name] = widened(data[start:end], kind).reshape(entry["shape"])
    return tensors


# --- torch.save ------------------------------------------------------------------------------------------------------

STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16",
            "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
            "BoolStorage": "?"}


class Inert:
    """Stands for every object that is no tensor. Takes whatever the pickle does to it, and does nothing."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_, **__):
        return self

    def __setstate__(self, _):
        pass

    def __setitem__(self, _, __):
        pass

    def append(self, _):
        pass

    extend = add = update = append


class Storage:
    """The values that tensors are views of; filled when they are read."""

    def __init__(self, kind, count):
        self.kind, self.count, self.values = kind, count, None

    @property
    def bytes(self):
        return self.count * (BYTES.get(self.kind) or np.dtype(self.kind).itemsize)


class View:
    """A tensor before its values are there."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

    def array(self):
        values = self.storage.values
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        if min((self.offset, *self.strides), default=0) < 0 or (0 not in self.shape and last >= len(values)):
            raise Unreadable(f"a tensor reaches to value {last} of {len(values)}")
        step = values.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, [s * step for s in self.strides], writeable=False
        )


def rebuild_tensor(storage, offset, shape, strides, *_):
    return View(storage, offset, shape, strides) if isinstance(storage, Storage) else Inert()


GLOBALS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
}


class Unpickler(pickle.Unpickler):
    """Calls nothing but the functions of GLOBALS."""

    def __init__(self, file, storages):
        super().__init__(file, encoding="latin-1")
        self.storages = storages

    def find_class(self, module, name):
        if module.startswith("torch") and name in STORAGES:
            return name
        return GLOBALS.get((module, name), Inert)

    def persistent_load(self, token):
        what, kind, key, _, count, *view = token
        if what != "storage" or kind not in STORAGES or (view and view[0] is not None):
            raise Unreadable(f"a tensor of a kind that is not known here ({kind})")
        return self.storages.setdefault(str(key), Storage(STORAGES[kind], int(count)))


def unpickled(file, storages, name):
    try:
        return Unpickler(file, storages).load()
    except Unreadable as e:
        raise Unreadable(f"{name}: {e}") from None
    except Exception as e:  # the pickle machine fails in many ways on garbage
        raise Unreadable(f"{name} is no file of torch.save, or damaged: {e}") from None


def arrays(node):
    if isinstance(node, View):
        return node.array()
    if isinstance(node, dict):
        return {key: arrays(value) for key, value in node.items()}
    return None


def torch_zip(path):
    try:
        archive = zipfile.ZipFile(path)
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl")]
    except zipfile.BadZipFile as e:
        raise Unreadable(f"{path.name}: {e}: damaged or cut off") from None
    if len(pickles) != 1:
        raise Unreadable(f"{path.name} is a zip file, but not one of torch.save")
    folder, storages = pickles[0].removesuffix("data.pkl"), {}
    with archive, archive.open(pickles[0]) as file:
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise Unreadable(f"{path.name} was written on a big-endian machine")
        tree = unpickled(file, storages, path.name)
        for key, storage in storages.items():
            name = f"{folder}data/{key}"
            try:
                fits = archive.getinfo(name).file_size == storage.bytes
                storage.values = widened(archive.read(name), storage.kind) if fits else None
            except (KeyError, zipfile.BadZipFile) as e:
                raise Unreadable(f"{path.name}: {e}") from None
            if storage.values is None:
                raise Unreadable(f"{path.name}: {name} does not hold {storage.count} values")
    return arrays(tree)


def torch_legacy(path):
    storages, name = {}, path.name
    with open(path, "rb") as file:
        if unpickled(file, storages, name) != 0x1950A86A20F9469CFC6C:
            raise Unreadable(f"{name} is no file of torch.save")
        unpickled(file, storages, name)  # version
        unpickled(file, storages, name)  # the machine it was written on
        tree = unpickled(file, storages, name)
        for key in unpickled(file, storages, name):
            storage, count = storages.get(str(key)), int.from_bytes(file.read(8), "little")
            if storage is None or count != storage.count:
                raise Unreadable(f"{name}: {count} values for storage {key}")
            raw = file.read(storage.bytes)
            if len(raw) != storage.bytes:
                raise Unreadable(f"{name} is cut off")
            storage.values = widened(raw, storage.kind)
    if any(storage.values is None for storage in storages.values()):
        raise Unreadable(f"{name} lacks values: damaged or cut off")
    return arrays(tree)
