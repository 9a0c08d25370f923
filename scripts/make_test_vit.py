#!/usr/bin/env python3
"""Small vision transformers with random weights, and what they compute: the reference for scripts/export_onnx.py.

  make_test_vit.py make DIR           for every case DIR/<case>/: card.toml, weights.safetensors or weights.pth, tiles.npy and
                                      wanted.npy, the embeddings by the plain numpy transformer below; prints the cases as JSON
  make_test_vit.py compare DIR        runs every DIR/<case>/<folder>/<case>.onnx in onnxruntime; prints JSON with the least
                                      cosine and the largest difference
  make_test_vit.py broken DIR         weights files that must be refused, for the case 'timm-gelu'
  make_test_vit.py external ARGS...   export_onnx.py ARGS with the weights in a file of their own, whatever their size

Nothing of the exporter is used for the reference. The weights are far from an initialisation's: LayerScale U(0.1, 0.6), every
bias, norm, token and position jittered, so that a part left out or taken for another shows.
"""
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
from write_weights import write_safetensors, write_torch

PATCH, PX = 14, 56
MEAN, STD = (0.70, 0.58, 0.69), (0.21, 0.23, 0.18)

# names, mlp, registers, prefix_positions, layer_scale, pooling, head, side of the stored positions, format, prefix, eps
CASES = {
    "timm-gelu": ("timm", "gelu", 0, 1, True, "cls", "", 56, "F32", "", 1e-6),
    "timm-mean-resized": ("timm", "gelu", 0, 1, False, "mean", "", 98, "F32", "", 1e-6),
    "timm-enlarged": ("timm", "gelu", 0, 1, False, "cls", "", 42, "F32", "", 1e-6),
    "timm-registers-with-positions": ("timm", "swiglu", 4, 5, True, "cls+mean", "", 56, "F32", "", 1e-6),
    "timm-no-prefix-positions": ("timm", "swiglu", 8, 0, True, "cls", "", 56, "pth", "", 1e-6),
    "dinov2-chunks": ("dinov2", "swiglu", 4, 1, True, "cls", "", 56, "pth", "teacher.backbone.", 1e-6),
    "dinov2-resized": ("dinov2", "gelu", 0, 1, True, "cls", "", 98, "pth", "", 1e-6),
    "dinov2-registers-resized": ("dinov2", "gelu", 4, 1, True, "cls+mean", "", 98, "F32", "", 1e-6),
    "hf-vit-resized": ("hf-vit", "gelu", 0, 1, False, "cls", "", 98, "F16", "", 1e-12),
    "hf-dinov2-resized": ("hf-dinov2", "gelu", 0, 1, True, "cls+mean", "", 98, "BF16", "", 1e-6),
    "hf-dinov2-registers": ("hf-dinov2", "swiglu", 4, 1, True, "cls", "", 98, "F32", "dinov2.", 1e-6),
    "keep": ("timm", "gelu", 0, 1, True, "projected class token, of length 1", "keep", 56, "F32", "visual.", 1e-6),
    "conch": ("timm", "gelu", 0, 1, False, "attention", "coca", 56, "F32", "visual.trunk.", 1e-6),
    "conch-contrast": ("timm", "gelu", 0, 1, False, "attention", "coca-projected", 56, "pth", "visual.trunk.", 1e-6),
    "conch-v1.5": ("timm", "gelu", 0, 1, True, "attention", "coca", 56, "F32", "trunk.", 1e-6),
}
WIDTH, DEPTH, HEADS, HIDDEN, DIM = 48, 2, 3, 96, 32


class Case:
    def __init__(self, name):
        self.name = name
        (self.names, self.mlp, self.registers, self.prefix_positions, self.layer_scale, self.pooling, self.head, self.positions_px,
         self.format, self.prefix, self.eps) = CASES[name]  # fmt: skip
        self.dim = DIM if self.head else WIDTH * (2 if self.pooling == "cls+mean" else 1)

    def card(self):
        head = f'head = "{self.head}"\n' if self.head else ""
        return f'''id = "{self.name}"
name = "random weights"
aliases = ["{self.name}-alias"]
pathology = false

[architecture]
route = "direct"
{head}
[architecture.vit]
patch = {PATCH}
width = {WIDTH}
depth = {DEPTH}
heads = {HEADS}
mlp = "{self.mlp}"
hidden = {HIDDEN}
registers = {self.registers}
prefix_positions = {self.prefix_positions}
positions_px = {self.positions_px}
layer_scale = {str(self.layer_scale).lower()}
norm_eps = {self.eps}
names = "{self.names}"
prefix = "{self.prefix}"

[input]
px = {PX}
layout = "nhwc"
dtype = "uint8"
mean = {list(MEAN)}
std = {list(STD)}
resize = "bilinear"

[tile]
px = {PX}
mpp = 0.5

[output]
name = "embedding"
dim = {self.dim}
pooling = "{self.pooling}"
'''


def random_weights(case, random):
    """The transformer's weights by names of our own."""
    normal = lambda *shape, size=0.05: random.normal(0, size, shape)  # noqa: E731
    grid = case.positions_px // PATCH
    w = {
        "class": normal(WIDTH, size=0.5),
        "positions": normal(case.prefix_positions + grid * grid, WIDTH, size=0.5),
        "patch": normal(WIDTH, 3, PATCH, PATCH),
        "patch bias": normal(WIDTH),
        "norm": (random.uniform(0.6, 1.4, WIDTH), normal(WIDTH, size=0.2)),
        "blocks": [],
    }
    if case.registers:
        w["registers"] = normal(case.registers, WIDTH, size=0.5)
    for _ in range(DEPTH):
        b = {n: (normal(WIDTH, WIDTH, size=0.2), normal(WIDTH, size=0.2)) for n in ("q", "k", "v", "out")}
        b |= {n: (random.uniform(0.6, 1.4, WIDTH), normal(WIDTH, size=0.2)) for n in ("norm1", "norm2")}
        b |= {n: (normal(HIDDEN, WIDTH, size=0.2), normal(HIDDEN, size=0.2)) for n in ("gate", "up")}
        b["down"] = normal(WIDTH, HIDDEN, size=0.2), normal(WIDTH, size=0.2)
        if case.layer_scale:
            b |= {n: random.uniform(0.1, 0.6, WIDTH) for n in ("scale1", "scale2")}
        w["blocks"].append(b)
    return w


def random_head(case, random):
    """The head's weights by the names in its files."""
    normal = lambda *shape, size=0.1: random.normal(0, size, shape)  # noqa: E731

    def mlp(at, a, b, c):
        return {f"{at}.0.weight": normal(b, a), f"{at}.0.bias": normal(b), f"{at}.2.weight": normal(c, b), f"{at}.2.bias": normal(c)}

    match case.head:
        case "keep":
            return mlp("visual_head", WIDTH, DIM, DIM) | {"text.embeddings.weight": normal(9, 9)}
        case "coca" | "coca-projected":
            before = case.prefix.removesuffix("trunk.")
            pool, norm = f"{before}attn_pool_contrast", f"{before}ln_contrast"
            w = {
                f"{pool}.query": normal(1, DIM, size=1),
                f"{pool}.attn.q_proj_weight": normal(DIM, DIM),
                f"{pool}.attn.k_proj_weight": normal(DIM, WIDTH, size=0.5),
                f"{pool}.attn.v_proj_weight": normal(DIM, WIDTH),
                f"{pool}.attn.in_proj_bias": normal(3 * DIM),
                f"{pool}.attn.out_proj.weight": normal(DIM, DIM),
                f"{pool}.attn.out_proj.bias": normal(DIM),
                f"{norm}.weight": random.uniform(0.6, 1.4, DIM),
                f"{norm}.bias": normal(DIM),
            }
            for n, size in (("ln_q", DIM), ("ln_k", WIDTH)):
                w |= {f"{pool}.{n}.weight": random.uniform(0.6, 1.4, size), f"{pool}.{n}.bias": normal(size)}
            return w | ({f"{before}proj_contrast": normal(DIM, DIM)} if before else {}) | {"logit_scale": normal(1)}
    return {}


def in_file(case, w):
    """The weights under the names of the case's kind of file."""
    out = {}
    hf = case.names.startswith("hf")
    both = lambda name, pair: out.update({f"{name}.weight": pair[0], f"{name}.bias": pair[1]})  # noqa: E731
    before = "embeddings." if hf else ""
    out[f"{before}cls_token"] = w["class"].reshape(1, 1, -1)
    out["embeddings.position_embeddings" if hf else "pos_embed"] = w["positions"][None]
    if case.registers:
        out["reg_token" if case.names == "timm" else f"{before}register_tokens"] = w["registers"][None]
    both("embeddings.patch_embeddings.projection" if hf else "patch_embed.proj", (w["patch"], w["patch bias"]))
    both("layernorm" if hf else "norm", w["norm"])
    if case.names in ("dinov2", "hf-dinov2"):
        out[f"{before}mask_token"] = np.ones((1, WIDTH))
    if case.names == "hf-vit":
        both("pooler.dense", (np.ones((WIDTH, WIDTH)), np.ones(WIDTH)))
    for i, b in enumerate(w["blocks"]):
        at = f"encoder.layer.{i}." if hf else f"blocks.{i}."
        if case.name == "dinov2-chunks":
            at = f"blocks.{i}.{i}."
        vit = case.names == "hf-vit"
        both(at + ("layernorm_before" if vit else "norm1"), b["norm1"])
        both(at + ("layernorm_after" if vit else "norm2"), b["norm2"])
        if hf:
            for n, long in (("q", "query"), ("k", "key"), ("v", "value")):
                both(f"{at}attention.attention.{long}", b[n])
        else:
            both(f"{at}attn.qkv", [np.concatenate([b[n][j] for n in "qkv"]) for j in (0, 1)])
        both(at + ("attention.output.dense" if hf else "attn.proj"), b["out"])
        first = [np.concatenate([b["gate"][j], b["up"][j]]) for j in (0, 1)] if case.mlp == "swiglu" else b["up"]
        swiglu = {"timm": ("fc1", "fc2"), "dinov2": ("w12", "w3"), "hf-dinov2": ("weights_in", "weights_out")}
        names = swiglu[case.names] if case.mlp == "swiglu" else ("fc1", "fc2")
        one, two = ("intermediate.dense", "output.dense") if vit else (f"mlp.{n}" for n in names)
        both(at + one, first)
        both(at + two, b["down"])
        if case.layer_scale:
            scale = "layer_scale{}.lambda1" if hf else "ls{}.weight" if case.head == "keep" else "ls{}.gamma"
            out |= {at + scale.format(n): b[f"scale{n}"] for n in (1, 2)}
    return {case.prefix + n: v for n, v in out.items()}


def rounded(values, kind):
    """As the file will hold them, so that the reference computes with the same numbers."""
    values = np.asarray(values, np.float32)
    if kind == "BF16":
        return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return values.astype(np.float16).astype(np.float32) if kind == "F16" else values


# The reference: a vision transformer as the papers write it, float64, one picture at a time.


def layer_norm(x, pair, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * pair[0] + pair[1]


def linear(x, pair):
    return x @ pair[0].T + pair[1]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attend(q, k, v, heads):
    each = q.shape[-1] // heads
    parts = []
    for h in range(heads):
        s = slice(h * each, (h + 1) * each)
        parts.append(softmax(q[:, s] @ k[:, s].T / math.sqrt(each)) @ v[:, s])
    return np.concatenate(parts, -1)


def position_grid(case, rows):
    """Rows of the patches brought to the picture's grid as the case's toolkit does."""
    old, new = case.positions_px // PATCH, PX // PATCH
    if old == new:
        return rows
    square = rows.reshape(old, old, -1)
    out = np.empty((new, new, square.shape[-1]))
    if case.names == "timm" or case.registers > 0:
        from PIL import Image  # whose bicubic torch's antialiased one follows

        for c in range(square.shape[-1]):
            channel = Image.fromarray(square[:, :, c].astype(np.float32))
            out[:, :, c] = np.asarray(channel.resize((new, new), Image.Resampling.BICUBIC))
        return out.reshape(new * new, -1)
    # torch's F.interpolate: samples at scale * (i + 1/2) - 1/2, of which Meta's code makes (new + 0.1) / old.
    scale = old / (new + 0.1) if case.names == "dinov2" else old / new
    at = lambda i, j: square[min(max(i, 0), old - 1), min(max(j, 0), old - 1)]  # noqa: E731

    def cubic(t):
        t, a = abs(t), -0.75
        if t <= 1:
            return ((a + 2) * t - (a + 3)) * t * t + 1
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a if t < 2 else 0.0

    for i in range(new):
        for j in range(new):
            y, x = scale * (i + 0.5) - 0.5, scale * (j + 0.5) - 0.5
            cells = [(a, b) for a in range(math.floor(y) - 1, math.floor(y) + 3) for b in range(math.floor(x) - 1, math.floor(x) + 3)]
            out[i, j] = sum(cubic(y - a) * cubic(x - b) * at(a, b) for a, b in cells)
    return out.reshape(new * new, -1)


def embed(case, w, head, tile):
    x = (tile / 255 - np.array(MEAN)) / np.array(STD)
    patches = []
    for top in range(0, PX, PATCH):
        for left in range(0, PX, PATCH):
            part = x[top : top + PATCH, left : left + PATCH]
            patches.append([(part * kernel.transpose(1, 2, 0)).sum() for kernel in w["patch"]])
    patches = np.array(patches) + w["patch bias"] + position_grid(case, w["positions"][case.prefix_positions :])
    prefix = np.concatenate([w["class"][None], w["registers"]] if case.registers else [w["class"][None]])
    prefix[: case.prefix_positions] += w["positions"][: case.prefix_positions]
    x = np.concatenate([prefix, patches])
    for b in w["blocks"]:
        h = layer_norm(x, b["norm1"], case.eps)
        h = linear(attend(*(linear(h, b[n]) for n in "qkv"), HEADS), b["out"])
        x = x + (h * b["scale1"] if case.layer_scale else h)
        h = layer_norm(x, b["norm2"], case.eps)
        if case.mlp == "swiglu":
            gate = linear(h, b["gate"])
            h = gate / (1 + np.exp(-gate)) * linear(h, b["up"])
        else:
            h = gelu(linear(h, b["up"]))
        h = linear(h, b["down"])
        x = x + (h * b["scale2"] if case.layer_scale else h)
    x = layer_norm(x, w["norm"], case.eps)
    return after(case, head, x[0], x[1 + case.registers :].mean(0), x)


def after(case, head, cls, mean, tokens):
    two = lambda at, x: linear(gelu(linear(x, (head[f"{at}.0.weight"], head[f"{at}.0.bias"]))),  # noqa: E731
                               (head[f"{at}.2.weight"], head[f"{at}.2.bias"]))  # fmt: skip
    match case.head:
        case "keep":
            y = two("visual_head", cls)
            return y / np.linalg.norm(y)
        case "coca" | "coca-projected":
            w = {n.removeprefix("visual."): v for n, v in head.items()}
            pool = "attn_pool_contrast."
            pair = lambda n: (w[n + ".weight"], w[n + ".bias"])  # noqa: E731
            k = layer_norm(tokens, pair(pool + "ln_k"), 1e-5)
            q = layer_norm(w[pool + "query"], pair(pool + "ln_q"), 1e-5)
            biases = w[pool + "attn.in_proj_bias"].reshape(3, DIM)
            q, k, v = (linear(x, (w[f"{pool}attn.{n}_proj_weight"], b)) for x, n, b in zip((q, k, k), "qkv", biases))
            y = layer_norm(linear(attend(q, k, v, 8), pair(pool + "attn.out_proj"))[0], pair("ln_contrast"), 1e-5)
            return y @ w["proj_contrast"] if case.head == "coca-projected" else y
    return {"cls": cls, "mean": mean, "cls+mean": np.concatenate([cls, mean])}[case.pooling]


def nested(tensors):
    """A training checkpoint as the dinov2-chunks case has it: {"teacher": {"backbone.x": ...}, "student": ..., "iteration"}."""
    teacher = {n.removeprefix("teacher."): v for n, v in tensors.items()}
    student = {n: np.zeros_like(v) for n, v in teacher.items()}
    return {"student": student, "teacher": teacher | {"dino_head.weight": np.ones((3, 3))}, "iteration": 7}


def prepared(case):
    random = np.random.default_rng(sum(case.name.encode()))
    weights, head = random_weights(case, random), random_head(case, random)
    exact = lambda v: (  # noqa: E731
        {k: exact(x) for k, x in v.items()} if isinstance(v, dict)
        else [exact(x) for x in v] if isinstance(v, list)
        else tuple(exact(x) for x in v) if isinstance(v, tuple)
        else rounded(v, case.format)
    )  # fmt: skip
    tiles = random.integers(0, 256, (3, PX, PX, 3), np.uint8)
    return exact(weights), exact(head), tiles


def make(directory):
    done = {}
    for name in CASES:
        case, folder = Case(name), Path(directory) / name
        folder.mkdir(parents=True, exist_ok=True)
        weights, head, tiles = prepared(case)
        tensors = in_file(case, weights) | head
        (folder / "card.toml").write_text(case.card())
        if case.format == "pth":
            content = nested(tensors) if name == "dinov2-chunks" else {"state_dict": {k: v.astype(np.float32) for k, v in tensors.items()}}
            write_torch(folder / "weights.pth", content)
        else:
            write_safetensors(folder / "weights.safetensors", tensors, case.format)
        np.save(folder / "tiles.npy", tiles)
        np.save(folder / "wanted.npy", np.stack([embed(case, weights, head, t) for t in tiles]))
        done[name] = f"{folder}/weights.{'pth' if case.format == 'pth' else 'safetensors'}"
    print(json.dumps(done))


def compare(directory):
    import os

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    result = {}
    for model in sorted(Path(directory).glob("*/*/*.onnx")):
        folder = model.parent.parent
        tiles, wanted = np.load(folder / "tiles.npy"), np.load(folder / "wanted.npy")
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        got = session.run(None, {"image": tiles})[0].astype(np.float64)
        assert got.shape == wanted.shape, f"{model}: {got.shape}, not {wanted.shape}"
        cosine = (got * wanted).sum(1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1))
        apart = np.linalg.norm(wanted[0] - wanted[1]) / np.linalg.norm(wanted[0])
        result[f"{folder.name}/{model.parent.name}"] = {
            "cosine": float(cosine.min()),
            "difference": float(np.abs(got - wanted).max()),
            "largest": float(np.abs(wanted).max()),
            "tiles_apart": float(apart),
        }
    print(json.dumps(result))


def broken(directory):
    import os
    import pickle
    import zipfile

    directory = Path(directory)
    case = Case("timm-gelu")
    weights, _, _ = prepared(case)
    good = in_file(case, weights)

    def changed(**changes):
        return {n: v for n, v in (good | {k.replace("__", "."): v for k, v in changes.items()}).items() if v is not None}

    files = {
        "missing": changed(blocks__1__attn__proj__bias=None),
        "shape": changed(blocks__0__mlp__fc1__weight=np.zeros((HIDDEN + 1, WIDTH))),
        "more": changed(blocks__0__attn__q_norm__weight=np.zeros(WIDTH)),
        "nan": changed(norm__bias=np.full(WIDTH, np.nan)),
    }
    for name, tensors in files.items():
        write_safetensors(directory / f"{name}.safetensors", tensors, "F32")
    write_safetensors(directory / "whole.safetensors", good, "F32")
    whole = (directory / "whole.safetensors").read_bytes()
    (directory / "truncated.safetensors").write_bytes(whole[: len(whole) - 100])
    (directory / "header.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + whole[8:])
    length = struct.unpack("<Q", whole[:8])[0]
    lying = whole[8 : 8 + length].replace(b'"shape": [48]', b'"shape": [47]', 1)
    (directory / "lying.safetensors").write_bytes(whole[:8] + lying + whole[8 + length :])
    (directory / "text.bin").write_bytes(b"not weights at all, but long enough to be read")
    (directory / "legacy.pth").write_bytes(bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + bytes(64))  # its magic number alone

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {directory}/PWNED",)

    with zipfile.ZipFile(directory / "evil.pth", "w") as z:
        z.writestr("archive/data.pkl", pickle.dumps({"cls_token": Evil()}, 2))
    write_torch(directory / "whole.pth", good)
    raw = (directory / "whole.pth").read_bytes()
    (directory / "truncated.pth").write_bytes(raw[: len(raw) // 2])
    with zipfile.ZipFile(directory / "whole.pth") as z, zipfile.ZipFile(directory / "storage.pth", "w") as out:
        for entry in z.namelist():
            if entry != "archive/data/3":
                out.writestr(entry, z.read(entry))


def external(arguments):
    import export_onnx
    import vit_onnx

    vit_onnx.EMBEDDED_BYTES = 0
    sys.argv = ["export_onnx.py", *arguments]
    return export_onnx.main()


def main():
    match sys.argv[1:]:
        case ["make", directory]:
            make(directory)
        case ["compare", directory]:
            compare(directory)
        case ["broken", directory]:
            broken(directory)
        case ["external", *arguments]:
            return external(arguments)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
