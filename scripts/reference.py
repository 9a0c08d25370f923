#!/usr/bin/env python3
"""Reference values from other tools: openslide-python, Pillow, onnxruntime and h5py.

  reference.py regions SLIDE            lines "level x y width height" (x, y in level-0 pixels) on standard input;
                                        raw RGB of each on standard output, background over white
  reference.py icc SLIDE LEVEL_PX TILE_PX
                                        lines "x y" (level-0 pixels of tiles that are LEVEL_PX wide there) on standard input;
                                        raw RGB of each tile on standard output: read_region, background over white,
                                        ImageCms.profileToProfile to sRGB, resize (bilinear) to TILE_PX where that differs
  reference.py features SLIDE FEATURES.h5 MODEL.onnx [--limit N]
                                        walks the grid of a `--decode exact --tissue none` run and embeds it anew; compares
                                        coordinates and embeddings with the file; prints JSON
  reference.py file FEATURES.h5         what h5py sees: shapes, dtypes, attributes, filters; prints JSON

None of paraffin's code runs here: level and footprint are worked out again from the slide's own metadata.
"""
import argparse
import json
import os
import sys

import numpy as np

# Before onnxruntime is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def open_slide(path):
    import openslide

    return openslide.OpenSlide(path)


def rgb(image):
    """RGBA over white, as OpenSlide leaves what lies outside the slide transparent."""
    from PIL import Image

    if image.getextrema()[3][0] == 255:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return white.convert("RGB")


def regions(args):
    slide = open_slide(args.slide)
    for line in sys.stdin:
        level, x, y, width, height = map(int, line.split())
        sys.stdout.buffer.write(np.asarray(rgb(slide.read_region((x, y), level, (width, height)))).tobytes())


def icc(args):
    from PIL import Image, ImageCms

    slide = open_slide(args.slide)
    srgb = ImageCms.createProfile("sRGB")
    for line in sys.stdin:
        tile = rgb(slide.read_region(tuple(map(int, line.split())), 0, (args.level_px, args.level_px)))
        tile = ImageCms.profileToProfile(tile, slide.color_profile, srgb)
        if args.tile_px != args.level_px:
            tile = tile.resize((args.tile_px, args.tile_px), Image.Resampling.BILINEAR)
        sys.stdout.buffer.write(np.asarray(tile).tobytes())


def footprint(slide, target_mpp, tile_px):
    """Level, reduction and level-0 side of a tile: the coarsest level at most 5 % coarser than the target; a reduction
    within 5 % of a power of two is taken as that."""
    mpp = (float(slide.properties["openslide.mpp-x"]) + float(slide.properties["openslide.mpp-y"])) / 2
    level = max(
        (i for i, d in enumerate(slide.level_downsamples) if mpp * round(d) <= target_mpp * 1.05), default=None
    )
    downsample = round(slide.level_downsamples[level])
    factor = target_mpp / (mpp * downsample)
    power = 2.0 ** round(np.log2(factor))
    reduction = power if power >= 1 and abs(factor / power - 1) <= 0.05 else factor
    return level, downsample, reduction, int(round(tile_px * reduction * downsample))


def features(args):
    import h5py
    import onnxruntime
    from PIL import Image

    slide = open_slide(args.slide)
    with h5py.File(args.features) as f:
        got, coords = f["features"][:], f["coords"][:]
        attributes = dict(f["coords"].attrs)
        target_mpp = float(f.attrs["mpp_target"])
    tile_px = int(attributes["patch_size"])
    level, downsample, reduction, side = footprint(slide, target_mpp, tile_px)
    step = int(round((tile_px - int(attributes["overlap"])) * reduction * downsample))
    width, height = slide.dimensions
    grid = np.array([(x, y) for y in range(0, height, step) for x in range(0, width, step)], dtype=np.int64)
    rows = np.linspace(0, len(grid) - 1, min(args.limit, len(grid))).astype(int)
    session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
    name, shape, kind = (lambda i: (i.name, i.shape, i.type))(session.get_inputs()[0])
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    wanted = []
    for row in rows:
        x, y = map(int, grid[row])
        px = side // downsample
        tile = rgb(slide.read_region((x, y), level, (px, px)))
        tile = tile.resize((tile_px, tile_px), Image.Resampling.BILINEAR)
        side_px = shape[2]
        tile = np.asarray(tile.resize((side_px, side_px), Image.Resampling.BILINEAR))[None]
        if "float" in kind:
            # torchvision's ToTensor and Normalize with ImageNet's values.
            tile = ((tile.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
        wanted.append(session.run(None, {name: tile})[0][0])
    wanted = np.array(wanted)
    result = {
        "tiles": len(grid),
        "coords_equal": coords.dtype == np.int64 and coords.shape == grid.shape and bool((coords == grid).all()),
        "patch_size_level0": side,
        "compared": len(rows),
    }
    if got.shape[0] == len(grid):
        mine = got[rows].astype(np.float64)
        cosine = (mine * wanted).sum(1) / (np.linalg.norm(mine, axis=1) * np.linalg.norm(wanted, axis=1))
        result |= {
            "cosine_min": float(cosine.min()),
            "cosine_mean": float(cosine.mean()),
            "difference_max": float(np.abs(mine - wanted).max()),
            "value_max": float(np.abs(wanted).max()),
        }
    print(json.dumps(result))


def plain(value):
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value


def file(args):
    import h5py

    with h5py.File(args.features) as f:
        result = {"attributes": {k: plain(v) for k, v in f.attrs.items()}, "datasets": {}}
        for name, dataset in f.items():
            values = dataset[:]
            result["datasets"][name] = {
                "shape": list(dataset.shape),
                "dtype": str(dataset.dtype),
                "chunks": dataset.chunks,
                "compression": dataset.compression,
                "shuffle": dataset.shuffle,
                "finite": bool(np.isfinite(values).all()),
                "attributes": {k: plain(v) for k, v in dataset.attrs.items()},
                "attribute_types": {k: type(v).__name__ for k, v in dataset.attrs.items()},
            }
            if values.dtype == np.float32 and values.size:
                low = values.view(np.uint32) & 0x1FFF
                result["datasets"][name]["mantissa_bits_10"] = bool((low == 0).all())
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("regions")
    command.add_argument("slide")
    command.set_defaults(run=regions)
    command = commands.add_parser("icc")
    command.add_argument("slide")
    command.add_argument("level_px", type=int)
    command.add_argument("tile_px", type=int)
    command.set_defaults(run=icc)
    command = commands.add_parser("features")
    command.add_argument("slide")
    command.add_argument("features")
    command.add_argument("model")
    command.add_argument("--limit", type=int, default=100)
    command.set_defaults(run=features)
    command = commands.add_parser("file")
    command.add_argument("features")
    command.set_defaults(run=file)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
