#!/usr/bin/env python3
"""Finished features as SpatialData stores, one zarr a slide, as LazySlide and wsidata lay them out.

    export_spatialdata.py OUT -o DIR [--artefact features_uni2-h] [--grid 20x_224px_0px_overlap] [--check]

DIR/<id>.zarr holds shapes `tiles` (a polygon a tile in level-0 pixels, with tile_id, x, y and tissue_id), the table `<encoder>_tiles`
(AnnData: X float32 (N, D), obs tile_id and library_id) and the attribute `tile_spec`. Slides whose feature file is not what its record
says are refused by name (exit code 4), slides without tiles are left out: a store of nothing cannot be written. A store appears
under its name when it is whole. --check opens each again and compares. No path or vendor field is copied.

Needs scripts/requirements-spatialdata.txt, in an environment of its own: over a hundred packages, which is why paraffin's tests do not run it.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import anndata
import geopandas
import h5py
import numpy as np
import pandas as pd
import shapely
import spatialdata
from spatialdata.models import ShapesModel, TableModel


def find(out, grid, artefact):
    """The one directory of features that is meant."""
    found = [p.parent.parent / p.name for p in sorted(out.glob("*/records/features_*")) if p.is_dir()]
    meant = [p for p in found if grid in (None, p.parent.name) and artefact in (None, p.name)]
    if len(meant) != 1:
        names = "\n  ".join(f"{p.parent.name}/{p.name}" for p in found) or "none"
        sys.exit(f"say which features with --grid and --artefact; OUT holds\n  {names}")
    return meant[0]


def finished(features):
    """Id and record of every slide, or why it is refused."""
    grid = features.parent
    for path in sorted((grid / "records" / features.name).glob("*.json")):
        record = json.loads(path.read_text())
        entry = record["files"][0]
        file = features / f"{path.stem}.h5"
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            yield path.stem, None, "its feature file is not what its record says"
        else:
            yield path.stem, record, None


def store(file, record, contract):
    """The slide as SpatialData."""
    with h5py.File(file) as f:
        features, coords, attributes = f["features"][:].astype(np.float32), f["coords"][:], dict(f["coords"].attrs)
    side, px = int(attributes["patch_size_level0"]), int(attributes["patch_size"])
    stride = px - int(attributes["overlap"])
    number = np.arange(len(coords))
    tiles = geopandas.GeoDataFrame(
        {
            "tile_id": number,
            "x": coords[:, 0],
            "y": coords[:, 1],
            "tissue_id": np.zeros(len(coords), np.int64),
            "geometry": shapely.box(*coords.T, *(coords + side).T),
        }
    )
    obs = pd.DataFrame({"tile_id": number, "library_id": pd.Categorical(["tiles"] * len(number))}, index=number.astype(str))
    table = TableModel.parse(
        anndata.AnnData(X=features, obs=obs), region="tiles", region_key="library_id", instance_key="tile_id"
    )
    read = record["read"]
    spec = {
        "height": px,
        "width": px,
        "stride_height": stride,
        "stride_width": stride,
        "mpp": read["effective_mpp"],
        "ops_level": read["level"],
        "ops_downsample": read["reduction"],
        "base_level": 0,
        "base_downsample": side / px,
        "tissue_name": None,
    }
    return spatialdata.SpatialData(
        shapes={"tiles": ShapesModel.parse(tiles)},
        tables={f"{contract['encoder']['id']}_tiles": table},
        attrs={"tile_spec": {"tiles": spec}, "contract_sha256": record["contract_sha256"]},
    )


def check(path, file, encoder):
    """Opens a store again and compares it with the feature file."""
    back = spatialdata.read_zarr(path)
    with h5py.File(file) as f:
        features, coords = f["features"][:].astype(np.float32), f["coords"][:]
        side = int(f["coords"].attrs["patch_size_level0"])
    bounds = back.shapes["tiles"].geometry.bounds.to_numpy()
    spec = back.attrs["tile_spec"]["tiles"]
    assert np.array_equal(back.tables[f"{encoder}_tiles"].X, features), "other features"
    assert np.array_equal(bounds, np.hstack([coords, coords + side])), "other polygons"
    assert round(spec["width"] * spec["base_downsample"]) == side, "another tile"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--artefact")
    parser.add_argument("--grid")
    parser.add_argument("--check", action="store_true", help="open every store again and compare")
    options = parser.parse_args()
    features = find(options.out, options.grid, options.artefact)
    if options.output.resolve().is_relative_to(options.out.resolve()):
        sys.exit("-o lies in OUT: give a directory elsewhere")
    contract = json.loads((features.parent / "contracts" / f"{features.name}.json").read_text())
    options.output.mkdir(parents=True, exist_ok=True)
    refused = 0
    for slide, record, why in finished(features):
        if why:
            refused += 1
            print(f"{slide}: refused: {why}", file=sys.stderr)
            continue
        file, path = features / f"{slide}.h5", options.output / f"{slide}.zarr"
        if record["tiles"]["written"] == 0:
            print(f"{slide}: no tiles, left out", file=sys.stderr)
            continue
        part = options.output / f".{slide}.zarr.part"
        for old in (part, path):
            shutil.rmtree(old, ignore_errors=True)
        store(file, record, contract).write(part)
        part.rename(path)
        if options.check:
            check(path, file, contract["encoder"]["id"])
        print(f"{slide}: {record['tiles']['written']} tiles{', read back equal' if options.check else ''}")
    return 4 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
