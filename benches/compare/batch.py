"""A batch of small slides: paraffin against the bare model over the same tiles, and against the loops that labs run."""

import os
import re
import statistics
import subprocess
import sys

from common import HERE, MODEL, ROOT, best, check, competitor, cosine_row, json_line, paraffin, say

SLIDES = ["crop_lzw.svs", "generic_jpeg.tif", "philips.tiff", "small_1level.svs", "small_ycc420.svs", "small_j2k33005.svs"]
PX = 224
# The card whose architecture loop.py's random weights are for.
VIT_S = "kaiko-vits16"


def vit_s(context):
    """ViT-S/16 with random weights: its safetensors, and the ONNX file that scripts/export_onnx.py builds of them."""
    weights, folder = context.temporary / "vit_s.safetensors", context.temporary / VIT_S
    subprocess.run([context.torch_python, HERE / "loop.py", "weights", weights], check=True, stdout=sys.stderr)
    subprocess.run(
        [ROOT / ".venv/bin/python", ROOT / "scripts/export_onnx.py", VIT_S, "--weights", weights, "-o", folder], check=True,
        stdout=sys.stderr,
    )
    return weights, folder / f"{VIT_S}.onnx"


def waited(context):
    """The share of their time that the encoders waited for tiles, as the run says it."""
    return float(re.search(r"encoders for tiles ([0-9.]+) %", (context.temporary / "paraffin.log").read_text())[1])


def batch(context):
    import h5py
    import numpy as np

    cores = len(os.sched_getaffinity(0))
    slides = [context.data / "composed" / name for name in SLIDES]
    paraffin(context, "tiles", *slides, "-o", context.temporary / "patches", "--tile-px", PX, "--target-mpp", "0.5")
    patches = {p.name.removesuffix("_patches.h5"): p for p in (context.temporary / "patches").glob("*/patches/*.h5")}
    pairs = [f"{slide}={patches[slide.stem]}" for slide in slides]
    parts = []
    for slide in slides:
        parts.append(context.temporary / f"{slide.stem}.npy")
        competitor("tiles", slide, patches[slide.stem], PX, parts[-1])
    tiles = context.temporary / "all.npy"
    np.save(tiles, np.concatenate([np.load(part) for part in parts]))
    models = {"efficientnet-lite0": (None, MODEL)}
    if context.torch_python:
        models["ViT-S/16"] = vit_s(context)
    else:
        say("no ViT-S and no loops in Python: they need --torch-python")
    rounds, checks, cosines = {}, [], []
    for called, (weights, model) in models.items():
        # As the bare session is at its best: a single-threaded session a core (whole.py tries them all).
        turns = {"paraffin": None, "bare": None}
        encoder = ["--encoder", model] if weights else []

        def loops(name):
            ways = [(b, w) for b in (8, 32) for w in (1, cores)]
            return {
                f"{name}, batch {b}, {w} workers": ("onnx" if "onnx" in name else "torch", b, w) for b, w in ways
            }

        if context.torch_python:
            turns |= loops("DataLoader + onnxruntime") | (loops("DataLoader + torch") if weights else {})
        results, waits = {who: [] for who in turns}, []
        for number in range(context.rounds):
            for who in list(turns)[:: 1 if number % 2 else -1]:
                out = context.temporary / f"{called}-{who}-{number}".replace("/", "-")
                if who == "paraffin":
                    result = paraffin(context, "embed", *slides, "-o", out, *encoder, "--tile-px", PX, "--target-mpp", "0.5")
                    result["tiles"] = len(np.load(tiles, mmap_mode="r"))
                    waits.append(waited(context))
                elif who == "bare":
                    result = competitor("bare", model, tiles, cores, 1, 1, 0, f"{out}.npy")
                    bare = np.load(f"{out}.npy")
                else:
                    runtime, size, workers = turns[who]
                    file = weights if runtime == "torch" else model
                    words = [context.torch_python, HERE / "loop.py", "run", runtime, file, size, workers, PX, out, *pairs]
                    result = json_line(words)
                results[who].append(result)
            say(f"batch, {called}, round {number + 1}: " + ", ".join(f"{k} {best(r[-1:]):.1f}/s" for k, r in results.items()))
        rounds |= {f"{called}: {who}": r for who, r in results.items()}

        def median(who):
            return statistics.median(o["seconds"] / p["seconds"] for p, o in zip(results["paraffin"], results[who]))

        checks.append(check(f"{called}: whole run / bare session", 0.95, median("bare")))
        checks.append(check(f"{called}: encoders waited for tiles, %", 2, statistics.median(waits), at_most=True))
        for name in ("DataLoader + onnxruntime", "DataLoader + torch"):
            ways = [who for who in results if who.startswith(name)]
            if ways:
                fastest = max(ways, key=lambda who: best(results[who]))
                checks.append(check(f"{called}: whole run / {fastest}", None, median(fastest)))
        files = {
            p.stem: p for p in context.temporary.glob(f"{called}-paraffin-0*".replace("/", "-") + "/*/features_*/*.h5")
        }
        mine = []
        for slide in slides:
            with h5py.File(files[slide.stem]) as f:
                mine.append(f["features"][:])
        cosines.append(cosine_row(f"{called}: paraffin / bare session", np.concatenate(mine), bare))
    return {
        "title": f"A batch of {len(slides)} small slides, {len(np.load(tiles, mmap_mode='r'))} tiles",
        "rounds": {"all": rounds}, "checks": checks, "cosines": cosines,
    }
