#!/usr/bin/env python3
"""Do the readers that people train with take what `paraffin embed` wrote? Their own code, unmodified, is run on it.

    paraffin embed testdata/CMU-1-Small-Region.svs -o out
    readers/bin/python scripts/check_readers.py out --clam CLAM --trident TRIDENT     # see requirements-readers.txt

CLAM       Generic_MIL_Dataset with load_from_h5(True); --clam is a checkout of mahmoodlab/CLAM (GPL-3)
TRIDENT    read_coords of trident/IO.py, and from the notebook of tutorial 3 the class H5Dataset and the statement that
           reads a feature file for a heatmap; --trident is a checkout of mahmoodlab/TRIDENT (CC BY-NC-ND)
torchmil   TridentWSIDataset, installed from PyPI

Neither licence lets the code lie in this project, so the user gives checkouts; without one its reader is SKIPPED.
What a reader returns must be the file's own values, float32, and pass a linear layer, which is where float16 fails.
Exit codes: 0 all readers that ran took all files, 1 one did not, 2 nothing to check.
"""

import argparse
import ast
import json
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset


class Bag:
    """One slide's files, read plainly: what the readers have to return."""

    def __init__(self, grid, features):
        self.id, self.features_file = features.stem, features
        self.patches_file = grid / "patches" / f"{self.id}_patches.h5"
        with h5py.File(features) as f:
            self.features, self.coords = f["features"][:], f["coords"][:]
            self.attributes = dict(f["coords"].attrs)
        with h5py.File(self.patches_file) as f:
            must(np.array_equal(f["coords"][:], self.coords), "features and patches have different coords")
            must(dict(f["coords"].attrs) == self.attributes, "features and patches have different attributes")


def must(condition, what):
    if not condition:
        raise AssertionError(what)


def check_features(got, bag):
    must(isinstance(got, torch.Tensor), f"a {type(got).__name__}, no tensor")
    must(got.dtype == torch.float32, f"dtype {got.dtype}")
    must(np.array_equal(got.numpy(), bag.features), "other values than in the file")
    must(torch.nn.Linear(got.shape[1], 4)(got).shape == (len(bag.features), 4), "a linear layer refuses it")


def clam(checkout, bags, temporary):
    sys.path.insert(0, str(checkout))
    from dataset_modules.dataset_generic import Generic_MIL_Dataset

    (temporary / "h5_files").mkdir()
    for bag in bags:
        (temporary / "h5_files" / f"{bag.id}.h5").symlink_to(bag.features_file.resolve())
    table = {"case_id": [f"case {i}" for i in range(len(bags))], "slide_id": [b.id for b in bags], "label": "tumor"}
    pd.DataFrame(table).to_csv(temporary / "clam.csv", index=False)
    dataset = Generic_MIL_Dataset(
        data_dir=str(temporary), csv_path=str(temporary / "clam.csv"), label_dict={"tumor": 0}, print_info=False
    )
    dataset.load_from_h5(True)
    must(len(dataset) == len(bags), f"{len(dataset)} slides")
    for row, bag in enumerate(bags):
        features, label, coords = dataset[row]
        check_features(features, bag)
        must(np.array_equal(coords, bag.coords) and label == 0, "other coords or label")
        yield f"features {tuple(features.shape)} {features.dtype}, coords {coords.shape} {coords.dtype}, label {label}"


def statements(source, wanted):
    """The statements of this Python text that are wanted, each run as it stands by `exec`."""
    module = ast.parse(source)
    module.body = [node for node in module.body if wanted(node)]
    must(module.body, "the checkout does not hold the code that is looked for")
    return compile(module, "trident", "exec")


def trident(checkout, bags, temporary):
    del temporary
    reader = {"h5py": h5py}
    source = (checkout / "trident/IO.py").read_text()
    exec(statements(source, lambda n: isinstance(n, ast.FunctionDef) and n.name == "read_coords"), reader)
    notebook = json.loads(next((checkout / "tutorials").glob("3-*.ipynb")).read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    training = next(c for c in cells if "class H5Dataset" in c)
    heatmap = statements(next(c for c in cells if "patch_size_level0" in c), lambda n: isinstance(n, ast.With))
    names = {"h5py": h5py, "torch": torch, "os": __import__("os"), "Dataset": Dataset, "SEED": 1234}
    exec(statements(training, lambda n: isinstance(n, ast.ClassDef) and n.name == "H5Dataset"), names)
    for bag in bags:
        attributes, coords = reader["read_coords"](bag.patches_file)
        must(np.array_equal(coords, bag.coords) and attributes == bag.attributes, "read_coords returns other coords")
        table = pd.DataFrame({"slide_id": [bag.id], "BAP1_mutation": [1], "fold_0": ["test"]})
        features, label = names["H5Dataset"](str(bag.features_file.parent), table, "test")[0]
        check_features(features, bag)
        if len(bag.coords):
            drawn, _ = names["H5Dataset"](str(bag.features_file.parent), table.assign(fold_0="train"), "train")[0]
            must(drawn.shape == (512, features.shape[1]), f"a training draw of {tuple(drawn.shape)}")
        map_names = {"h5py": h5py, "patch_features_path": bag.features_file}
        exec(heatmap, map_names)
        must(np.array_equal(map_names["patch_features"], bag.features), "the heatmap reads other features")
        side = map_names["coords_attrs"]["patch_size_level0"]
        yield f"features {tuple(features.shape)} {features.dtype}, label {label:.0f}, patch_size_level0 {side}"


def torchmil(_, bags, temporary):
    from torchmil.datasets import TridentWSIDataset

    features = bags[0].features_file.parent
    # torchmil takes a suffix off the names in this table once for each bag that it loads: in a dataset of several bags
    # an id with a dot in it gets no label.
    table = pd.DataFrame({"slide": [f"{bag.id}.svs" for bag in bags], "label": 1})
    table.to_csv(temporary / "torchmil.csv", index=False)

    def dataset(bag):
        return TridentWSIDataset(
            base_path=f"{features.parent}/",
            labels_path=str(temporary / "torchmil.csv"),
            feature_extractor=features.name.removeprefix("features_"),
            wsi_names=[bag.id],
            # Level-0 pixels, not tile_px: torchmil divides the coordinates by it; neighbours are those one apart.
            # It has one for all slides; those of another resolution need a dataset of their own.
            patch_size=int(bag.attributes["patch_size_level0"]),
            bag_keys=["X", "Y", "adj", "coords"],
            wsi_name_col="slide",
            wsi_label_col="label",
        )

    for bag in bags:
        (got,) = dataset(bag)
        check_features(got["X"], bag)
        must(got["Y"].tolist() == [1], f"label {got['Y'].tolist()}")
        side = int(bag.attributes["patch_size_level0"])
        must(np.array_equal(got["coords"].numpy(), bag.coords // side), "other coords")
        edges = int((np.abs(bag.coords[:, None] - bag.coords[None]).max(-1) <= side).sum()) - len(bag.coords)
        must(got["adj"].coalesce()._nnz() in (edges, edges + len(bag.coords)), "other neighbours")
        yield f"X {tuple(got['X'].shape)} {got['X'].dtype}, Y {got['Y'].tolist()}, {edges} neighbour edges"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="what paraffin embed wrote")
    parser.add_argument("--clam", type=Path, metavar="DIR", help="checkout of mahmoodlab/CLAM")
    parser.add_argument("--trident", type=Path, metavar="DIR", help="checkout of mahmoodlab/TRIDENT")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    folders = sorted(options.out.glob("*/features_*"))
    folders = [f for f in folders if f.is_dir() and any(f.glob("*.h5"))]
    if not folders:
        print(f"nothing to check: no */features_*/*.h5 in {options.out}", file=sys.stderr)
        return 2
    readers = [("CLAM", clam, options.clam), ("TRIDENT", trident, options.trident), ("torchmil", torchmil, True)]
    failed = 0
    for folder in folders:
        bags = [Bag(folder.parent, file) for file in sorted(folder.glob("*.h5"))]
        for name, reader, checkout in readers:
            if not checkout:
                print(f"SKIPPED  {name:<9} {folder.name}: no checkout given (--{name.lower()} DIR)")
                continue
            try:
                with tempfile.TemporaryDirectory() as temporary:
                    for bag, returned in zip(bags, reader(checkout, bags, Path(temporary)), strict=True):
                        print(f"OK       {name:<9} {bag.id}: {returned}")
            except Exception as error:
                failed += 1
                print(f"FAILED   {name:<9} {folder.name}: {type(error).__name__}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
