#!/usr/bin/env python3
"""Tissue masks against known truth, peers beside, and the time that the tissue pass of a large slide takes.

    .venv/bin/python benches/tissue.py --paraffin target/release/paraffin                     # fixtures, and ../shared/data/composed
    .venv/bin/python benches/tissue.py --paraffin target/release/paraffin --speed             # a slide of 61,440 x 51,200 px
    PEERS/bin/python benches/tissue.py --paraffin target/release/paraffin --peers             # hs2p's and lazyslide's masks beside

Peers run from PyPI in an environment of their own (`pip install --no-deps hs2p==6.1.0 lazyslide==0.13.0`, then numpy, opencv-python-headless,
scikit-image, pillow, openslide-python, openslide-bin): their own functions on the same picture at 8 µm/px, with their defaults. What
they do later with areas of contours is not part of it.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "testdata" / "tissue"
COMPOSED = ROOT.parent / "shared" / "data" / "composed"
TISSUE, PEN, UNSCANNED, PEN_OVER_TISSUE = 1, 2, 3, 4


def paraffin(program, slide, words=()):
    """The tissue's outlines and the record of a slide."""
    with tempfile.TemporaryDirectory() as out:
        command = [program, "tiles", slide, "-o", out, "--contours", "--no-overviews", "--progress", "none", *words]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            return None, run.stderr
        (outlines,) = Path(out).glob("*/contours/*.geojson")
        (record,) = Path(out).glob("*/records/patches/*.json")
        return json.loads(outlines.read_text()), json.loads(record.read_text())


def raster(outlines, shape, per_px, fine=1):
    """Outlines as a mask of `shape`, `per_px` level-0 pixels a pixel; a pixel is tissue where half of it is."""
    picture = Image.new("L", (shape[1] * fine, shape[0] * fine))
    draw = ImageDraw.Draw(picture)
    for feature in outlines["features"]:
        outer, *holes = feature["geometry"]["coordinates"]
        scaled = lambda ring: [(x * fine / per_px - 0.5, y * fine / per_px - 0.5) for x, y in ring]
        draw.polygon(scaled(outer), fill=1)
        for hole in holes:
            draw.polygon(scaled(hole), fill=0)
    mask = np.asarray(picture, np.float32).reshape(shape[0], fine, shape[1], fine)
    return mask.mean((1, 3)) >= 0.5


def scores(mask, truth):
    tissue, pen = truth == TISSUE, np.isin(truth, [PEN, PEN_OVER_TISSUE])
    iou = (mask & tissue).sum() / (mask | tissue).sum() if (mask | tissue).any() else 1.0
    kept = (mask & pen).sum() / pen.sum() if pen.any() else None
    return iou, kept


def hs2p_masks():
    sys.modules["hs2p"] = package("hs2p")
    segmentation = importlib.import_module("hs2p.segmentation")
    masks = {}
    for method in ("hsv", "otsu", "threshold"):
        config = types.SimpleNamespace(method=method, sthresh=8, sthresh_up=255, mthresh=7, close=4)
        masks[f"hs2p {method}"] = lambda picture, config=config: segmentation.segment_tissue_image(picture, config=config) > 0
    return masks


def lazyslide_masks():
    sys.modules["lazyslide"] = package("lazyslide")
    sys.modules["lazyslide.cv"] = package("lazyslide", "cv")
    transform = importlib.import_module("lazyslide.cv.transform")
    import cv2

    def by(*steps):
        return lambda picture: transform.Compose(list(steps)).apply(picture) > 0

    close = transform.MorphClose(kernel_size=7, n_iterations=3)
    otsu = by(transform.MedianBlur(kernel_size=7), transform.BinaryThreshold(use_otsu=True), close)
    masks = {
        "lazyslide default": by(transform.MedianBlur(kernel_size=7), transform.ArtifactFilterThreshold(threshold=7), close),
        "lazyslide otsu": lambda picture: otsu(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[:, :, 1]),
    }
    if hasattr(transform, "EntropyThreshold"):
        masks["lazyslide entropy"] = by(transform.EntropyThreshold(), close)
    return masks


def package(*names):
    """A package whose modules can be imported without what its own __init__ wants."""
    found = next((Path(p) / Path(*names) for p in sys.path if (Path(p) / Path(*names)).is_dir()), None)
    if found is None:
        raise ModuleNotFoundError(".".join(names))
    module = types.ModuleType(".".join(names))
    module.__path__ = [str(found)]
    return module


def slides():
    """Name, file, words for paraffin, truth, level-0 pixels per pixel of truth, picture at 8 µm/px."""
    for path in sorted(FIXTURES.glob("*.jpg")):
        truth = np.asarray(Image.open(FIXTURES / f"{path.stem}_truth.png"))
        words = ["--mpp", "4", "--target-mpp", "4", "--tile-px", "32"]
        yield path.stem, path, words, truth, 1, lambda path=path: np.asarray(Image.open(path).convert("RGB").reduce(2))
    if not COMPOSED.is_dir():
        print("skipped: ../shared/data/composed is not on this machine")
        return
    truth = np.asarray(Image.open(COMPOSED / "small_truth.png"))
    for path in sorted(p for p in COMPOSED.glob("small_*") if p.suffix != ".png"):
        yield path.stem, path, [], truth, 32, lambda path=path: low_power(path)


def low_power(path):
    import openslide

    slide = openslide.OpenSlide(str(path))
    level = max(i for i, d in enumerate(slide.level_downsamples) if d <= 32.5)
    picture = slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB")
    return np.asarray(picture.reduce(round(32 / slide.level_downsamples[level])))


def accuracy(program, with_peers):
    peers = {}
    if with_peers:
        for family in (hs2p_masks, lazyslide_masks):
            try:
                peers.update(family())
            except (ImportError, AttributeError) as e:
                print(f"skipped: {family.__name__}: {e}")
    cell = lambda found: f"{found[0]:.3f}" + ("" if found[1] is None else f" ({100 * found[1]:.1f} %)")
    print("IoU with the truth (in brackets: share of the pen that is kept)\n")
    print("| slide | paraffin auto | its method |" + "".join(f" {name} |" for name in peers) + " tissue under pen, found / true mm² |")
    print("|---|---|---|" + "---|" * (len(peers) + 1))
    for name, path, words, truth, per_px, picture in slides():
        outlines, record = paraffin(program, path, words)
        if outlines is None:
            print(f"| {name} | failed: {record.strip().splitlines()[-1]} |")
            continue
        found = record["tissue"]["found"]
        mask = raster(outlines, truth.shape, per_px, 4 if per_px > 1 else 1)
        cells = [cell(scores(mask, truth)), found["chosen"]]
        pixels = picture() if peers else None
        for method in peers.values():
            theirs = Image.fromarray(np.asarray(method(pixels)).astype(np.uint8))
            cells.append(cell(scores(np.asarray(theirs.resize((truth.shape[1], truth.shape[0]), 0)) > 0, truth)))
        mm2 = (record["slide"]["mpp_x"] * per_px) ** 2 / 1e6
        under = (truth == PEN_OVER_TISSUE).sum() * mm2
        cells.append(f"{found['artefacts_mm2']['pen_over_tissue']:.3f} / {under:.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def large_slide(path):
    """61,440 x 51,200 px at 0.25 µm/px: its levels 1 and 4 hold no blocks (as scanners leave out glass), 16 real texture as JPEG."""
    import io

    import tifffile

    tissue = Image.open(FIXTURES / "uneven.jpg").convert("RGB")
    w, h = 61440, 51200
    low = Image.new("RGB", (w // 16, h // 16), (243, 243, 245))
    for y in range(0, low.height, tissue.height):
        for x in range(0, low.width, tissue.width):
            low.paste(tissue, (x, y))

    def blocks(picture):
        for y in range(0, picture.height, 256):
            for x in range(0, picture.width, 256):
                block = io.BytesIO()
                picture.crop((x, y, x + 256, y + 256)).save(block, "JPEG", quality=80, subsampling=2)
                yield block.getvalue()

    empty = lambda w, h: (b"" for _ in range(-(-w // 256) * -(-h // 256)))
    options = {"tile": (256, 256), "compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2), "dtype": np.uint8, "metadata": None}
    text = f"Aperio Image Library v11.2.1\r\n{w}x{h} [0,0 {w}x{h}] (256x256) JPEG/RGB Q=80|AppMag = 40|MPP = 0.25"
    with tifffile.TiffWriter(path, bigtiff=False) as tif:
        tif.write(empty(w, h), shape=(h, w, 3), description=text, **options)
        tif.write(empty(w // 4, h // 4), shape=(h // 4, w // 4, 3), description=text, **options)
        tif.write(blocks(low), shape=(low.height, low.width, 3), description=text, **options)


def speed(program):
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder) / "large.svs"
        large_slide(slide)
        print("seconds of `paraffin tiles` on 61,440 x 51,200 px, of five runs the least and the median:")
        for method in ("auto", "otsu", "entropy", "none"):
            took = []
            for _ in range(5):
                with tempfile.TemporaryDirectory() as out:
                    command = [program, "tiles", slide, "-o", out, "--no-overviews", "--tissue", method]
                    start = time.perf_counter()
                    subprocess.run(command, check=True, capture_output=True)
                    took.append(time.perf_counter() - start)
            print(f"  {method:8} {min(took):.2f} {sorted(took)[2]:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paraffin", default=str(ROOT / "target" / "release" / "paraffin"))
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--speed", action="store_true")
    args = parser.parse_args()
    if args.speed:
        speed(args.paraffin)
    else:
        accuracy(args.paraffin, args.peers)


if __name__ == "__main__":
    main()
