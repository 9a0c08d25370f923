"""A vision transformer's tensors under timm's names, whatever the weights file calls them, checked against the card."""

import math
import re

import numpy as np

from weights_file import Unreadable

# What stands at the same place in every block, under the names of each scheme: a regular expression and timm's name.
QKV = {"query": "q", "key": "k", "value": "v"}
HF_COMMON = [
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.", lambda m: f"blocks.{m[1]}.attn.{QKV[m[2]]}."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
]
SCHEMES = {
    "timm": [
        (r"blocks\.(\d+)\.ls([12])\.weight$", r"blocks.\1.ls\2.gamma"),
    ],
    "dinov2": [
        (r"blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # blocks in chunks
        (r"(blocks\.\d+\.mlp\.)w12\.", r"\1fc1."),
        (r"(blocks\.\d+\.mlp\.)w3\.", r"\1fc2."),
        (r"register_tokens$", "reg_token"),
    ],
    "hf-vit": [
        *HF_COMMON,
        (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
        (r"encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
        (r"encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
        (r"encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
        (r"layernorm\.", "norm."),
    ],
    "hf-dinov2": [
        (r"embeddings\.register_tokens$", "reg_token"),
        *HF_COMMON,
        (r"encoder\.layer\.(\d+)\.norm([12])\.", r"blocks.\1.norm\2."),
        (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
        (r"encoder\.layer\.(\d+)\.mlp\.weights_in\.", r"blocks.\1.mlp.fc1."),
        (r"encoder\.layer\.(\d+)\.mlp\.weights_out\.", r"blocks.\1.mlp.fc2."),
        (r"encoder\.layer\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
        (r"layernorm\.", "norm."),
    ],
}
CLASS_TOKEN = {"timm": "cls_token", "dinov2": "cls_token", "hf-vit": "embeddings.cls_token", "hf-dinov2": "embeddings.cls_token"}
# Tensors that a checkpoint may hold and an encoder does not need: for training, and what classifies.
NOT_NEEDED = re.compile(r"(embeddings\.)?mask_token$|head\.|fc_norm\.|pooler\.|dino_head\.|ibot_head\.|dino_loss\.|ibot_")


def prefix_of(tensors, names, stated):
    """What stands before every name: as the card states, else wherever the class token is."""
    wanted = CLASS_TOKEN[names]
    if f"{stated}{wanted}" in tensors:
        return stated
    found = [name.removesuffix(wanted) for name in tensors if name == wanted or name.endswith(f".{wanted}")]
    if len(found) == 1:
        return found[0]
    if not found:
        some = ", ".join(sorted(tensors)[:5])
        raise Unreadable(f"no '{stated}{wanted}' among {len(tensors)} tensors: not a vision transformer of this scheme ({some}, ...)")
    raise Unreadable(f"several transformers ({', '.join(map(repr, found))}), and the card's prefix '{stated}' is none of them")


def shapes(vit):
    """Every tensor of the transformer and its shape, under timm's names."""
    width, hidden = vit["width"], vit["hidden"]
    grid = vit["positions_px"] // vit["patch"]
    first = 2 * hidden if vit["mlp"] == "swiglu" else hidden
    wanted = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, vit["prefix_positions"] + grid * grid, width),
        "patch_embed.proj.weight": (width, 3, vit["patch"], vit["patch"]),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if vit.get("registers", 0):
        wanted["reg_token"] = (1, vit["registers"], width)
    for i in range(vit["depth"]):
        block = {
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "mlp.fc1.weight": (first, width), "mlp.fc1.bias": (first,),
            "mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,),
        }
        for norm in ("norm1", "norm2"):
            block |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        if vit["layer_scale"]:
            block |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
        wanted |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return wanted


def timm_names(tensors, vit, px):
    """The transformer's tensors under timm's names, float, its position embedding brought to `px`."""
    names = vit["names"]
    prefix = prefix_of(tensors, names, vit.get("prefix", ""))
    state = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        name = name.removeprefix(prefix)
        for pattern, replacement in SCHEMES[names]:
            name = re.sub(f"^{pattern}", replacement, name)
        state[name] = tensor
    for i in range(vit["depth"]):
        for kind in ("weight", "bias"):
            parts = [f"blocks.{i}.attn.{c}.{kind}" for c in "qkv"]
            if all(part in state for part in parts):
                state[f"blocks.{i}.attn.qkv.{kind}"] = np.concatenate([state.pop(part) for part in parts])
    wanted = shapes(vit)
    missing = [name for name in wanted if name not in state]
    if missing:
        raise Unreadable(f"{len(missing)} tensors are missing, the first: {', '.join(missing[:3])}")
    other = [name for name in state if name not in wanted and not NOT_NEEDED.match(name)]
    if other:
        raise Unreadable(f"{len(other)} tensors that the card's transformer does not have: {', '.join(other[:3])}")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise Unreadable(f"{name} is {state[name].shape}, the card's transformer has {shape}")
        if state[name].dtype.kind != "f":
            raise Unreadable(f"{name} is of type {state[name].dtype}")
        if not np.isfinite(state[name]).all():
            raise Unreadable(f"{name} has values that are not finite")
    state["pos_embed"] = resized_positions(state["pos_embed"], vit, px)
    return {name: state[name] for name in wanted}


# --- position embeddings ---------------------------------------------------------------------------------------------


def cubic(x, a):
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def resampling(before, after, antialias, offset=0.0):
    """The matrix [after, before] of torch's bicubic interpolation of a line: with antialias as Pillow does it (a = -0.5, the
    filter widened), without as OpenCV does (a = -0.75, four neighbours, the border repeated). `offset` is added to `after` for
    the scale."""
    matrix, scale = np.zeros((after, before)), before / (after + offset)
    for i in range(after):
        centre = scale * (i + 0.5)
        if antialias:
            support = 2 * max(scale, 1.0)
            low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), before)
            taps = [cubic((j - centre + 0.5) / max(scale, 1.0), -0.5) for j in range(low, high)]
            matrix[i, low:high] = np.array(taps) / sum(taps)
        else:
            base = math.floor(centre - 0.5)
            for j in range(base - 1, base + 3):
                matrix[i, min(max(j, 0), before - 1)] += cubic(centre - 0.5 - j, -0.75)
    return matrix


def resized_positions(positions, vit, px):
    """The position embedding for a picture of `px`, as its own code brings it there: timm, and the models with registers of Meta
    and transformers, with antialias; others without, Meta's with a scale of (after + 0.1) / before."""
    before, after = vit["positions_px"] // vit["patch"], px // vit["patch"]
    if before == after:
        return positions
    names = vit["names"]
    antialias = names == "timm" or (names != "hf-vit" and vit.get("registers", 0) > 0)
    line = resampling(before, after, antialias, 0.1 if names == "dinov2" and not antialias else 0.0)
    count = vit["prefix_positions"]
    grid = positions[0, count:].reshape(before, before, -1).astype(np.float64)
    grid = np.einsum("yi,ijc,xj->yxc", line, grid, line).reshape(1, after * after, -1)
    return np.concatenate([positions[:, :count], grid.astype(np.float32)], axis=1)
