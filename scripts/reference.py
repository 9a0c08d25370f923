#!/usr/bin/env python3
"""Reference values from other tools: openslide-python, Pillow, onnxruntime and h5py.

  reference.py regions SLIDE            lines "level x y width height" (x, y in level-0 pixels) on standard input;
                                        raw RGB of each on standard output, background over white
  reference.py icc SLIDE LEVEL_PX TILE_PX
                                        lines "x y" (level-0 pixels of tiles that are LEVEL_PX wide there) on standard input;
                                        raw RGB of each tile on standard output: read_region, background over white,
                                        ImageCms.profileToProfile to sRGB, resize (bilinear) to TILE_PX where that differs
  reference.py features SLIDE FEATURES.h5 MODEL.onnx [--card CARD.toml] [--limit N] [--torch]
                                        walks the grid of a `--decode exact --tissue none` run and embeds it anew by the card:
                                        read, resize, crop, normalise, run; compares coordinates and embeddings with the file;
                                        prints JSON. The card is the one given, beside the model, or in its metadata; without
                                        one a float input has ImageNet's normalisation. --torch: the same with torchvision's
                                        own transforms, whose largest difference to Pillow's pixels is printed as well
  reference.py vector FEATURES.h5 VECTOR.h5 [SLIDE_ENCODER.onnx]
                                        makes the slide vector anew, by numpy's mean or onnxruntime; prints JSON
  reference.py file FILE.h5             what h5py sees: shapes, dtypes, attributes, filters; prints JSON

None of paraffin's code runs here: level and footprint are worked out again from the slide's own metadata.
"""
import argparse
import json
import os
import sys
import tomllib
from pathlib import Path

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


def read_card(session, model, given):
    """The encoder's card: the one given, the one beside the model, the one in its metadata, or what its graph says."""
    beside = Path(model).with_suffix(".toml")
    embedded = session.get_modelmeta().custom_metadata_map.get("paraffin.card")
    if given or beside.is_file():
        return tomllib.loads(Path(given or beside).read_text())
    if embedded:
        return tomllib.loads(embedded)
    graph, output = session.get_inputs()[0], session.get_outputs()[0]
    uint8 = "uint8" in graph.type
    return {
        "input": {
            "px": graph.shape[2],
            "layout": "nhwc" if uint8 else "nchw",
            "dtype": "uint8" if uint8 else "float32",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "resize": "bilinear",
        },
        "output": {"name": output.name, "pooling": ""},
    }


def fitted(tile, rule):
    """torchvision's Resize(resize_px) and CenterCrop(px) on a square picture, in Pillow."""
    from PIL import Image

    px = rule["px"]
    resized = rule.get("resize_px", px)
    if tile.size != (resized, resized):
        tile = tile.resize((resized, resized), Image.Resampling[rule["resize"].upper()])
    margin = int(round((resized - px) / 2.0))
    return tile.crop((margin, margin, margin + px, margin + px))


def fitted_by_torchvision(tile, rule):
    from torchvision import transforms

    kind = transforms.InterpolationMode(rule["resize"])
    px = rule["px"]
    return transforms.Compose(
        [transforms.Resize(rule.get("resize_px", px), interpolation=kind), transforms.CenterCrop(px)]
    )(tile)


def model_input(tile, rule):
    """One fitted picture as the graph wants it."""
    values = np.asarray(tile)[None]
    if rule["dtype"] == "float32":
        # torchvision's ToTensor and Normalize.
        values = (values.astype(np.float32) / 255 - np.float32(rule["mean"])) / np.float32(rule["std"])
    return values if rule["layout"] == "nhwc" else np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def pooled(outputs, card):
    """One embedding of a run's outputs: tokens are pooled as the card says, several outputs stand one after the other."""
    prefix = card["output"].get("prefix_tokens", 1)
    parts = {"cls": lambda t: t[:, 0], "mean": lambda t: t[:, prefix:].mean(1)}
    vectors = [
        np.concatenate([parts[p](o) for p in card["output"]["pooling"].split("+")], 1) if o.ndim == 3 else o
        for o in outputs
    ]
    return np.concatenate(vectors, 1)[0]


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def grid_tiles(slide, path, limit):
    """The grid of a feature file worked out anew, and tiles of it read by openslide: facts for the JSON, the file's features
    of these tiles (None where it has not all), the tiles as pictures."""
    import h5py
    from PIL import Image

    with h5py.File(path) as f:
        coords, attributes = f["coords"][:], dict(f["coords"].attrs)
        tile_px = int(attributes["patch_size"])
        level, downsample, reduction, side = footprint(slide, float(f.attrs["mpp_target"]), tile_px)
        step = int(round((tile_px - int(attributes["overlap"])) * reduction * downsample))
        width, height = slide.dimensions
        grid = np.array([(x, y) for y in range(0, height, step) for x in range(0, width, step)], dtype=np.int64)
        rows = np.unique(np.linspace(0, len(grid) - 1, min(limit, len(grid))).astype(int))
        got = f["features"][rows] if len(f["features"]) == len(grid) else None
    facts = {
        "tiles": len(grid),
        "coords_equal": coords.dtype == np.int64 and coords.shape == grid.shape and bool((coords == grid).all()),
        "patch_size_level0": side,
        "compared": len(rows),
    }
    px = side // downsample

    def read(row):
        tile = rgb(slide.read_region(tuple(map(int, grid[row])), level, (px, px)))
        return tile.resize((tile_px, tile_px), Image.Resampling.BILINEAR)

    return facts, got, (read(row) for row in rows)


def features(args):
    import onnxruntime

    result, got, tiles = grid_tiles(open_slide(args.slide), args.features, args.limit)
    session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
    card = read_card(session, args.model, args.card)
    rule, names = card["input"], card["output"]["name"]
    names = [names] if isinstance(names, str) else names
    wanted, torchvision = [], 0
    for tile in tiles:
        picture = fitted(tile, rule)
        if args.torch:
            other = fitted_by_torchvision(tile, rule)
            torchvision = max(torchvision, int(np.abs(np.int16(picture) - np.int16(other)).max()))
            picture = other
        outputs = session.run(names, {session.get_inputs()[0].name: model_input(picture, rule)})
        wanted.append(pooled(outputs, card))
    wanted = np.array(wanted)
    if args.torch:
        result["torchvision_pixel_difference_max"] = torchvision
    if got is not None:
        cosine = cosines(got, wanted)
        result |= {
            "cosine_min": float(cosine.min()),
            "cosine_mean": float(cosine.mean()),
            "difference_max": float(np.abs(got.astype(np.float64) - wanted).max()),
            "value_max": float(np.abs(wanted).max()),
            "cosine_of_different_tiles": float(cosines(wanted, np.roll(wanted, 1, 0)).mean()),
        }
    print(json.dumps(result))


def vector(args):
    import h5py

    with h5py.File(args.features) as f:
        rows, coords = f["features"][:].astype(np.float32), f["coords"][:]
        attributes = dict(f["coords"].attrs)
    with h5py.File(args.vector) as f:
        got = f["features"][:]
        coords_equal = bool(np.array_equal(f["coords"][:], coords)) and dict(f["coords"].attrs) == attributes
    if args.model is None:
        wanted = rows.astype(np.float64).mean(0).astype(np.float32) if len(rows) else np.zeros(0, np.float32)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
        card = tomllib.loads(Path(args.model).with_suffix(".toml").read_text())
        given = {card["input"].get("features", "features"): rows[None]}
        for graph in session.get_inputs():
            if graph.name == card["input"].get("coords"):
                given[graph.name] = coords[None].astype(np.float32 if "float" in graph.type else np.int64)
            elif graph.name == card["input"].get("patch_size"):
                given[graph.name] = np.full([1] * len(graph.shape), attributes["patch_size_level0"], np.int64)
        wanted = session.run([card["output"]["name"]], given)[0][0]
    result = {"shape": list(got.shape), "dtype": str(got.dtype), "coords_equal": coords_equal, "rows": len(rows)}
    if got.shape == wanted.shape and len(got):
        result["cosine"] = float(cosines(got, wanted))
        result["difference_max"] = float(np.abs(got - wanted).max())
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
    command.add_argument("--card")
    command.add_argument("--limit", type=int, default=100)
    command.add_argument("--torch", action="store_true")
    command.set_defaults(run=features)
    command = commands.add_parser("vector")
    command.add_argument("features")
    command.add_argument("vector")
    command.add_argument("model", nargs="?")
    command.set_defaults(run=vector)
    command = commands.add_parser("file")
    command.add_argument("features")
    command.set_defaults(run=file)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
