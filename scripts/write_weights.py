"""Weights files for tests, as safetensors and torch.save write them, without either."""
import json
import struct
import sys

import numpy as np


def write_safetensors(path, tensors, kind="F32"):
    """The format's own few lines: length of the header, header in JSON, values. `kind`: F32, F16 or BF16 (cut off)."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        size = values.size * (4 if kind == "F32" else 2)
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            values = np.ascontiguousarray(values, np.float16 if kind == "F16" else np.float32)
            f.write((values.view(np.uint32) >> 16).astype(np.uint16) if kind == "BF16" else values.data)


def write_torch(path, content):
    """What torch.save writes: a zip of a pickle that names storages, and the storages. Torch itself is not needed."""
    import collections
    import io
    import pickle
    import types
    import zipfile

    fake, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    fake.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    exec("def _rebuild_tensor_v2(*a): pass", utils.__dict__)  # noqa: S102 - a function that pickle finds by name
    utils._rebuild_tensor_v2.__module__ = "torch._utils"
    fake._utils = utils
    storages = []

    class Held:
        def __init__(self, values):
            self.values = np.asarray(values, np.float32)

        def __reduce__(self):
            stride = [s // 4 for s in np.zeros(self.values.shape, np.float32).strides]
            return utils._rebuild_tensor_v2, (Stored(self.values), 0, self.values.shape, tuple(stride), False, collections.OrderedDict())

    class Stored:
        def __init__(self, values):
            self.values = values

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, Stored):
                storages.append(thing.values.tobytes())
                return ("storage", fake.FloatStorage, str(len(storages) - 1), "cpu", thing.values.size)
            return None

    def held(value):
        if isinstance(value, dict):
            return collections.OrderedDict((k, held(v)) for k, v in value.items())
        return Held(value) if isinstance(value, np.ndarray) else value

    before = {n: sys.modules.get(n) for n in ("torch", "torch._utils")}
    sys.modules |= {"torch": fake, "torch._utils": utils}
    try:
        buffer = io.BytesIO()
        Pickler(buffer, 2).dump(held(content))
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module:
                sys.modules[name] = module
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        z.writestr("archive/data.pkl", buffer.getvalue())
        z.writestr("archive/version", "3\n")
        z.writestr("archive/byteorder", "little")
        for i, raw in enumerate(storages):
            z.writestr(f"archive/data/{i}", raw)
