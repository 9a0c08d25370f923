#!/usr/bin/env python3
"""Exports every encoder whose card says that it can be exported, from random weights, and compares it with its toolkit. Run by
hand, with scripts/requirements-torch.txt.

    scripts/check_export.py [ID ...] [--depth N|full]      a table as Markdown; exit code 1 where one is not right
    scripts/check_export.py --speed [--rounds N]           ViT-S/16: our graph, timm's dynamo export and eager torch

The toolkit builds each model by its own name and arguments (below, as the encoders' authors give them), full width, with 2
blocks where nothing else is said; its weights go to a file in the form of the published one; scripts/export_onnx.py makes ONNX
of it by the card's numbers. LayerScale is U(0.1, 0.6), and biases, norms, tokens and positions are far from an
initialisation's: with a fresh LayerScale of 1e-5 a block does nothing, and a wrong one would pass.
"""

import argparse
import copy
import math
import os
import re
import sys
import tempfile
import time
import tomllib
import warnings
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
warnings.filterwarnings("ignore")

import numpy as np
import timm
import torch
from torch import nn

import export_onnx
import export_torch
import weights_file

SWIGLU = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, **SWIGLU}
HOPTIMUS = ("vit_giant_patch14_reg4_dinov2", {"img_size": 224, "init_values": 1e-5})
UNI = ("vit_large_patch16_224", {"img_size": 224, "patch_size": 16, "init_values": 1e-5})
H0 = {"img_size": 224, "init_values": 1e-5, "reg_tokens": 4, "mlp_ratio": 5.33334, **SWIGLU}
# By the start of a card's id: timm's name and arguments, or transformers' class and configuration.
TOOLKIT = {
    "uni": UNI,
    "uni2-h": (
        "vit_giant_patch14_224",
        {
            "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8, **SWIGLU,
        },
    ),
    "virchow": ("vit_huge_patch14_224", VIRCHOW),
    "virchow2": ("vit_huge_patch14_224", {**VIRCHOW, "reg_tokens": 4}),
    "prov-gigapath": (
        "vit_giant_patch14_dinov2",
        {
            "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 5.33334,
            "init_values": 1e-5,
        },
    ),
    "gigapath-flash": (
        "vit_small_patch16_224",
        {"img_size": 224, "num_heads": 6, "mlp_ratio": 2048 / 384, "init_values": 1e-5, **SWIGLU},
    ),
    "h-optimus-0": HOPTIMUS,
    "h-optimus-1": HOPTIMUS,
    "h0-mini": ("vit_base_patch14_reg4_dinov2", H0),
    "phikon": ("ViTModel", {}),
    "phikon-v2": ("Dinov2Model", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 16}),
    "hibou-b": ("Dinov2WithRegistersModel", {"patch_size": 14}),
    "hibou-l": (
        "Dinov2WithRegistersModel",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14},
    ),
    "midnight": (
        "Dinov2Model",
        {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "patch_size": 14, "use_swiglu_ffn": True},
    ),
    "kaiko-vits16": ("vit_small_patch16_224", {"img_size": 224}),
    "kaiko-vits8": ("vit_small_patch8_224", {"img_size": 224}),
    "kaiko-vitb16": ("vit_base_patch16_224", {"img_size": 224}),
    "kaiko-vitb8": ("vit_base_patch8_224", {"img_size": 224}),
    "kaiko-vitl14": ("vit_large_patch14_reg4_dinov2", {"img_size": 518}),
    "openmidnight": HOPTIMUS,
    "openpath": HOPTIMUS,
    "gpfm": ("vit_large_patch14_dinov2", {"img_size": 224, "init_values": 1e-5}),
    "mstar": UNI,
    "keep": UNI,
    "lunit-vits8": ("vit_small_patch8_224", {}),
    "lunit-vits16": ("vit_small_patch16_224", {}),
    "path-orchestra": UNI,
    "crown": ("vit_large_patch16_224", {"img_size": 224, "init_values": 1.0, "mlp_ratio": 5472 / 1024, **SWIGLU}),
    "prost40m": ("vit_small_patch14_dinov2", {}),
    "sp22m": ("vit_small_patch16_224", {}),
    "dinov2-l14": ("vit_large_patch14_dinov2", {}),
    "conch": ("vit_base_patch16_224", {"img_size": 448}),
    "conch-v1.5": ("vit_large_patch16_224", {"img_size": 448, "init_values": 1.0}),
}
# Cosine to the toolkit and largest difference over largest value, which every export must keep to.
LIMITS = {"fp32": (0.999_999, 1e-4), "fp16": (0.9999, 1e-1)}


def toolkit_of(card):
    names = [name for name in TOOLKIT if re.match(rf"{re.escape(name)}(-|$)", card["id"])]
    return TOOLKIT.get(max(names, key=len)) if names else None


def toolkit_model(card, depth, px):
    """The toolkit's model by the toolkit's own name and arguments, and its positions for pictures of `px`."""
    name, more = toolkit_of(card)
    if name.startswith("vit_"):
        more = {"num_classes": 0, "global_pool": "", **more, "img_size": px, **({"depth": depth} if depth else {})}
        return timm.create_model(name, **more)
    import transformers

    more = {**more, "image_size": px, **({"num_hidden_layers": depth} if depth else {})}
    config = getattr(transformers, name.replace("Model", "Config"))(**more)
    return getattr(transformers, name)(config, **({"add_pooling_layer": False} if name == "ViTModel" else {}))


@torch.no_grad()
def shake(module):
    """Random weights that no part can hide behind."""
    for name, p in module.named_parameters():
        if "gamma" in name or "lambda1" in name:
            p.uniform_(0.1, 0.6)
        elif p.ndim == 1 and ("norm" in name or ".ln_" in name or name.startswith("ln_")) and name.endswith("weight"):
            p.uniform_(0.6, 1.4)
        elif p.ndim == 1:
            p.normal_(0, 0.1)
        elif "pos" in name or "token" in name or "query" in name and p.ndim != 2:
            p.normal_(0, 0.3)
        elif p.ndim >= 2:
            p.normal_(0, 1 / math.sqrt(p[0].numel()))


def file_tensors(card, model):
    """The model's tensors under the names of the published file."""
    vit = card["architecture"]["vit"]
    if vit["names"].startswith("hf"):
        from safetensors.torch import load_file

        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, max_shard_size="100GB")
            state = load_file(f"{folder}/model.safetensors")
    else:
        state = model.state_dict()
    if vit["names"] == "dinov2":
        out = {"mask_token": torch.zeros(1, vit["width"])}
        for name, tensor in state.items():
            if name == "pos_embed" and vit.get("registers", 0):
                # Meta's class token has a position; timm has added it to the token.
                tensor = torch.cat([torch.zeros(1, 1, vit["width"]), tensor], 1)
            name = name.replace("reg_token", "register_tokens")
            if vit["mlp"] == "swiglu":
                name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            if name.startswith("blocks."):  # in chunks, as sharded training leaves them
                number = int(name.split(".")[1])
                name = f"blocks.{number // 2}.{name.removeprefix('blocks.')}"
            out[name] = tensor
        state = out
    if card["architecture"].get("head") == "keep":
        state = {name.replace(".gamma", ".weight"): tensor for name, tensor in state.items()}
    return {vit.get("prefix", "") + name: tensor for name, tensor in state.items()}


def head_tensors(card, head):
    """The head's tensors under the names of the published file."""
    before = "visual." if card["architecture"]["vit"]["prefix"].startswith("visual.") and not hasattr(head, "visual_head") else ""
    return {before + name: tensor for name, tensor in head.state_dict().items()}


def tiles(px, count):
    """Pictures that are neither flat nor noise alone: blots of several sizes with noise over them; uint8 [count, px, px, 3]."""
    random = np.random.default_rng(px)
    y, x = np.mgrid[:px, :px] / px
    pictures = np.zeros((count, px, px, 3))
    for picture in pictures:
        for _ in range(24):
            cy, cx, size = *random.uniform(0, 1, 2), random.uniform(0.02, 0.3)
            picture += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / size**2)[..., None] * random.normal(0, 60, 3)
        picture += random.uniform(80, 200, 3) + random.normal(0, 12, picture.shape)
    return pictures.clip(0, 255).astype(np.uint8)


def embeddings(encoder, images):
    # For whole batches torch's attention may take a faster, less exact path.
    return torch.cat([encoder(torch.from_numpy(image[None])) for image in images]).numpy()


def save(state, path):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)


def compared(folder, images, wanted, build):
    """By precision: the least cosine, the largest difference and the largest value of what `build` makes."""
    results = {}
    for precision in LIMITS:
        (Path(folder) / precision).mkdir()
        path = Path(folder) / precision / "model.onnx"
        build(precision, path)
        got = export_onnx.run(path, images, batch=len(images))
        alone = export_onnx.run(path, images[:1])
        assert np.abs(alone - got[:1]).max() <= 1e-2 * np.abs(got).max(), "the batch changes the embedding"
        difference, cosine = export_onnx.compared(got, wanted)
        results[precision] = cosine, difference, float(np.abs(wanted).max())
        for file in path.parent.iterdir():
            file.unlink()
    return results


def check_direct(card, depth, folder):
    """One vision transformer: parameters in millions, and what `compared` gives."""
    card = copy.deepcopy(card)
    vit, rule, weights = card["architecture"]["vit"], card["input"], Path(folder) / "weights"
    weights = weights.with_suffix(Path(card["weights"].get("file") or "weights.bin").suffix)
    vit["depth"] = depth or vit["depth"]
    model, head = toolkit_model(card, depth, vit["positions_px"]), export_torch.head(card)
    modules = [model, *([head] if head else [])]
    for module in modules:
        shake(module)
        module.eval()
    million = sum(p.numel() for module in modules for p in module.parameters()) / 1e6
    save(file_tensors(card, model) | (head_tensors(card, head) if head else {}), weights)
    if isinstance(model, timm.models.VisionTransformer):
        if vit["positions_px"] != rule["px"]:
            # timm's own way of bringing positions to this size.
            other = toolkit_model(card, depth, rule["px"]).eval()
            state = timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), other)
            other.load_state_dict(state, strict=True)
            model = other
        backbone = model
    else:
        backbone = Tokens(model)
    pool = head or export_torch.pooling(card["output"]["pooling"], 1 + vit.get("registers", 0))
    images = tiles(rule["px"], 3)
    wanted = embeddings(export_torch.Encoder(backbone, rule["mean"], rule["std"], pool), images)
    del model, backbone, modules

    def build(precision, path):
        export_onnx.build(card, weights_file.read(weights), precision, "mha", path.parent, path.name)

    return million, compared(folder, images, wanted, build)


class Tokens(nn.Module):
    """A model of transformers as a function of a picture."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(pixel_values=x).last_hidden_state


# What the published files have before the names of what torch traces; PLIP's are those of transformers' own class.
BEFORE = {"quiltnet-b32": "visual.", "biomedclip": "visual.", "ctranspath-chief": "model."}


def check_traced(card, folder):
    """The same for an encoder that torch traces; its module with random weights is the toolkit's model."""
    model, _ = export_torch.traced(card)
    shake(model)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    state = model.state_dict()
    if hasattr(model, "clip"):
        from safetensors.torch import load_file

        model.clip.save_pretrained(folder)
        state = load_file(f"{folder}/model.safetensors")
    weights = Path(folder) / "weights.bin"
    save({BEFORE.get(card["id"], "") + name: tensor for name, tensor in state.items()}, weights)
    images = tiles(card["input"]["px"], 3)
    wanted = embeddings(export_torch.Encoder(model, card["input"]["mean"], card["input"]["std"]), images)
    million = sum(p.numel() for p in model.parameters()) / 1e6
    return million, compared(folder, images, wanted, lambda precision, path: export_torch.export(card, weights, precision, path, {}))


def table(args):
    cards = [tomllib.loads(path.read_text()) for path in sorted(export_onnx.MODELS.glob("*.toml"))]
    cards = [c for c in cards if c["architecture"].get("route", "none") != "none" and (not args.ids or c["id"] in args.ids)]
    print(f"torch {torch.__version__}, timm {timm.__version__}, blocks: {args.depth}\n")
    print("| encoder | names | M parameters built | fp32: largest difference (of) | fp32: 1 - cosine | fp16: 1 - cosine | s |")
    print("|---|---|---|---|---|---|---|")
    wrong = {}
    for card in cards:
        started, vit = time.time(), card["architecture"].get("vit")
        torch.manual_seed(1)
        try:
            with tempfile.TemporaryDirectory(dir=args.work) as folder:
                if card["architecture"]["route"] == "torch":
                    million, results = check_traced(card, folder)
                elif toolkit_of(card) is None:
                    raise KeyError("this script does not know how its toolkit builds it")
                else:
                    million, results = check_direct(card, None if args.depth == "full" else int(args.depth), folder)
        except Exception as e:  # one encoder's failure is not the others'
            wrong[card["id"]] = f"{type(e).__name__}: {str(e)[:300]}"
            continue
        for precision, (cosine, difference, largest) in results.items():
            least, most = LIMITS[precision]
            if not (cosine >= least and difference <= most * largest):
                wrong[card["id"]] = f"{precision}: cosine {cosine:.7f}, difference {difference:.1e} of {largest:.1f}"
        (c32, d32, largest), (c16, _, _) = results["fp32"], results["fp16"]
        print(
            f"| {card['id']} | {vit['names'] if vit else 'traced'} | {million:.1f} | {d32:.1e} ({largest:.1f}) "
            f"| {max(1 - c32, 0):.0e} | {1 - c16:.1e} | {time.time() - started:.0f} |",
            flush=True,
        )
    print(f"\n{len(cards) - len(wrong)} of {len(cards)} right")
    for name, why in wrong.items():
        print(f"WRONG: {name}: {why}")
    return 1 if wrong or not cards else 0


def speed(args):
    """CPU time of one thread a tile, in alternation: wall time would measure whatever else runs."""
    import onnxruntime

    torch.set_num_threads(1)
    model = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    shake(model)
    card = tomllib.loads((export_onnx.MODELS / "lunit-vits16.toml").read_text())
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        weights, folder = Path(folder) / "weights.bin", Path(folder)
        torch.save(model.state_dict(), weights)
        tensors = weights_file.read(weights)
        export_onnx.build(card, tensors, "fp32", "mha", folder, "ours.onnx")
        export_onnx.build(card, tensors, "fp32", "plain", folder, "plain.onnx")
        export_torch.trace(model, torch.zeros(2, 3, 224, 224), folder / "dynamo.onnx", "input")
        images = tiles(224, 4)
        encoder = export_torch.Encoder(model, card["input"]["mean"], card["input"]["std"])
        floats = encoder.normalised(torch.from_numpy(images))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1

        def session(name):
            return onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])

        ours, plain, dynamo = map(session, ("ours.onnx", "plain.onnx", "dynamo.onnx"))

        def eager(x):
            with torch.inference_mode():
                return model(x).numpy()

        runs = {
            "ours, uint8": lambda a, b: ours.run(None, {"image": images[a:b]})[0],
            "ours, plain attention, uint8": lambda a, b: plain.run(None, {"image": images[a:b]})[0],
            "timm's dynamo export, float32": lambda a, b: dynamo.run(None, {"input": floats[a:b].numpy()})[0],
            "eager torch, float32": lambda a, b: eager(floats[a:b]),
        }
        wanted = eager(floats)
        for name, run in runs.items():
            _, cosine = export_onnx.compared(run(0, 4), wanted)
            assert cosine > 0.99999, (name, cosine)
        rates = {(name, batch): [] for name in runs for batch in (1, 4)}
        for _ in range(args.rounds):
            for (name, batch), seen in rates.items():
                begin = time.process_time()
                for at in range(0, 4, batch):
                    runs[name](at, at + batch)
                seen.append(4 / (time.process_time() - begin))
    print(f"ViT-S/16, one thread, tiles per CPU second: best and median of {args.rounds} rounds in alternation\n")
    print("| | batch 1 | batch 4 |\n|---|---|---|")
    for name in runs:
        cells = [f"{max(rates[name, b]):.2f}, {np.median(rates[name, b]):.2f}" for b in (1, 4)]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--depth", default="2", metavar="N|full")
    parser.add_argument("--work", metavar="DIR", help="where weights and graphs go meanwhile (full giants: 14 GB)")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    return speed(args) if args.speed else table(args)


if __name__ == "__main__":
    sys.exit(main())
