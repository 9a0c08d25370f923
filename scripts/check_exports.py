#!/usr/bin/env python3
"""Compares what `paraffin export` wrote with the feature files that it was made of.

    check_exports.py TARGET EXPORT [FEATURES]      TARGET as in `paraffin export --to`, FEATURES as OUT/<grid>/features_<encoder>

With --slideflow DIR, an unpacked wheel of slideflow, its own BagDataset (mil/data.py, which needs torch and NumPy alone) reads the bags too.

Every file is opened as its reader opens it: h5py, numpy.load, safetensors, rocrate. A `.pt` is unpickled by a reader that knows three names
and calls nothing else; where torch is installed, torch.load(weights_only=True) must return the same. Prints what it saw as JSON;
exit code 1 and one line for what differs.
"""

import argparse
import collections
import hashlib
import importlib.util
import json
import pickle
import pickletools
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np


# slideflow's own module of bags, where it is given.
SLIDEFLOW = None


class Wrong(Exception):
    """What differs."""


def must(condition, what):
    if not condition:
        raise Wrong(what)


class Unpickler(pickle.Unpickler):
    """Knows a tensor of float32 and nothing else."""

    def __init__(self, archive, root):
        self.archive, self.root = archive, root
        super().__init__(archive.open(f"{root}/data.pkl"))

    def find_class(self, module, name):
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self.rebuild,
            ("torch", "FloatStorage"): "<f4",
            ("collections", "OrderedDict"): collections.OrderedDict,
        }
        must((module, name) in known, f"the pickle asks for {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid):
        kind, dtype, key, place, size = pid
        must((kind, place) == ("storage", "cpu"), f"a storage of {pid}")
        values = np.frombuffer(self.archive.read(f"{self.root}/data/{key}"), dtype)
        must(len(values) == size, f"{len(values)} values, {size} said")
        return values

    @staticmethod
    def rebuild(storage, offset, shape, stride, requires_grad, hooks):
        must((offset, requires_grad, hooks) == (0, False, {}), "more than a plain tensor")
        must(stride == (shape[1], 1), f"strides {stride}")
        return storage.reshape(shape)


def tensor(path):
    with zipfile.ZipFile(path) as archive:
        must(archive.testzip() is None, f"{path.name}: an entry is damaged")
        names = [e.filename for e in archive.infolist()]
        must(names == [f"archive/{n}" for n in ("data.pkl", "byteorder", "data/0", "version")], f"entries {names}")
        for entry in archive.infolist():
            must(entry.compress_type == zipfile.ZIP_STORED, f"{entry.filename} is compressed")
            must(entry.date_time == (1980, 1, 1, 0, 0, 0), f"{entry.filename} has a time")
        must(archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little", "version")
        pickletools.dis(archive.read("archive/data.pkl"), out=open("/dev/null", "w"))
        got = Unpickler(archive, "archive").load()
    try:
        import torch
    except ImportError:
        return got
    for mapped in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mapped)
        must(loaded.dtype == torch.float32 and np.array_equal(loaded.numpy(), got), f"torch reads {path.name} otherwise")
    return got


def plain(path):
    with h5py.File(path) as f:
        coords = f["coords"]
        attributes = dict(coords.attrs) | {f"root.{name}": value for name, value in f.attrs.items()}
        return f["features"][:].astype(np.float32), coords[:], attributes


def clam(export, path, features, coords, attributes):
    must(np.array_equal(tensor(export / "pt_files" / f"{path.stem}.pt"), features), "other features in the pt")
    with h5py.File(export / "h5_files" / path.name) as f:
        must(set(f) == {"features", "coords"} and not f.attrs, f"it holds {sorted(f)}, {dict(f.attrs)}")
        must(f["features"].dtype == np.float32 and np.array_equal(f["features"][:], features), "other features")
        must(f["coords"].dtype == np.int32 and np.array_equal(f["coords"][:], coords), "other coords")


def stamp(export, path, features, coords, attributes):
    with h5py.File(export / path.name) as f:
        a = dict(f.attrs)
        mpp = attributes["root.mpp_level0"]
        must((a["unit"], a["feat_type"]) == ("um", "tile"), f"attributes {a}")
        must(isinstance(a["stamp_version"], str) and isinstance(a["extractor"], str), "text that is no str")
        must(int(a["tile_size_px"]) == attributes["patch_size"], f"tile_size_px {a['tile_size_px']}")
        must(np.isclose(float(a["tile_size_um"]), attributes["patch_size_level0"] * mpp), f"tile_size_um {a['tile_size_um']}")
        must(f["feats"].dtype == np.float32 and np.array_equal(f["feats"][:], features), "other features")
        got = f["coords"][:]
        must(got.dtype == np.float32 and np.allclose(got, coords * mpp, rtol=1e-6, atol=0), "other coords")


def slideflow(export, path, features, coords, attributes):
    if not len(features):
        must(not (export / f"{path.stem}.pt").exists(), "a bag without tiles")
        return
    must(np.array_equal(tensor(export / f"{path.stem}.pt"), features), "other features")
    with np.load(export / f"{path.stem}.index.npz", allow_pickle=False) as index:
        must(index.files == ["arr_0"] and index["arr_0"].dtype == np.int64, f"an index of {index.files}")
        must(np.array_equal(index["arr_0"], coords + attributes["patch_size_level0"] // 2), "other centres")
    config = json.loads((export / "bags_config.json").read_text())
    must(config["num_features"] == features.shape[1] and config["tile_px"] == attributes["patch_size"], "another config")
    must(config["tile_um"] == round(attributes["patch_size"] * attributes["root.mpp_target"]), "another tile_um")
    if SLIDEFLOW:
        dataset = SLIDEFLOW.BagDataset([str(export / f"{path.stem}.pt")], bag_size=None)
        must(np.array_equal(dataset[0][0].numpy(), features) and dataset[0][1] == len(features), "its BagDataset differs")
    must(config["normalizer"] is None and "." in config["extractor"]["class"], "another config")


def safetensors(export, path, features, coords, attributes):
    from safetensors import safe_open

    with safe_open(export / f"{path.stem}.safetensors", "np") as f:
        must(set(f.keys()) == {"features", "coords"}, f"it holds {f.keys()}")
        got, places = f.get_tensor("features"), f.get_tensor("coords")
        metadata = f.metadata()
    must(got.dtype == np.float32 and np.array_equal(got, features), "other features")
    must(places.dtype == np.int64 and np.array_equal(places, coords), "other coords")
    for name in ("contract_sha256", "encoder", "encoder_sha256"):
        must(metadata[name] == attributes[f"root.{name}"], f"another {name}")
    for name in ("patch_size", "patch_size_level0", "level0_width", "level0_height", "overlap"):
        must(int(metadata[name]) == attributes[name], f"another {name}")
    must(path.stem not in json.dumps(metadata), "the id is in the metadata")


def ro_crate(export):
    from rocrate.rocrate import ROCrate

    crate = ROCrate(export)
    file = crate.get("site-manifest.json")
    content = (export / "site-manifest.json").read_bytes()
    must(file["sha256"] == hashlib.sha256(content).hexdigest(), "another sha256")
    must(file["contentSize"] == str(len(content)) and file in crate.root_dataset["hasPart"], "another file")
    must(crate.root_dataset["license"] and crate.root_dataset["name"], "no licence or name")
    actions = [e for e in crate.contextual_entities if e.type == "CreateAction"]
    artefacts = json.loads(content)["artefacts"]
    must([a["name"] for a in actions] == [f"{a['grid']}/{a['artefact']}" for a in artefacts], "other actions")
    for action, artefact in zip(actions, artefacts):
        must(action["result"] == file and artefact["contract_sha256"] in action["description"], "another action")
        instruments = action["instrument"] if isinstance(action["instrument"], list) else [action["instrument"]]
        got = {(i["name"], i["version"]) for i in instruments}
        wanted = {("paraffin", r["paraffin"]) for r in artefact["runtimes"]}
        wanted |= {("ONNX Runtime", r["onnxruntime"]) for r in artefact["runtimes"] if r["onnxruntime"]}
        must(got == wanted, f"instruments {got}, not {wanted}")
        must(not {"agent", "startTime", "endTime"} & set(action.properties()), "an agent or a time")
    return {"artefacts": len(artefacts), "date_published": crate.root_dataset["datePublished"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=["clam", "stamp", "slideflow", "safetensors", "ro-crate"])
    parser.add_argument("export", type=Path)
    parser.add_argument("features", type=Path, nargs="?")
    parser.add_argument("--slideflow", type=Path, metavar="DIR")
    options = parser.parse_args()
    if options.slideflow:
        global SLIDEFLOW
        spec = importlib.util.spec_from_file_location("bags", options.slideflow / "slideflow/mil/data.py")
        SLIDEFLOW = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(SLIDEFLOW)
    try:
        if options.target == "ro-crate":
            print(json.dumps(ro_crate(options.export)))
            return 0
        index = json.loads((options.export / "export.json").read_text())
        must(index["target"] == options.target and index["complete"], "export.json says another thing")
        said = {f["path"]: f for s in index["slides"].values() for f in s["files"]} | {f["path"]: f for f in index["files"]}
        there = {str(p.relative_to(options.export)) for p in options.export.rglob("*") if p.is_file()} - {"export.json"}
        must(set(said) == there, f"files that export.json does not name, or the other way: {set(said) ^ there}")
        for name, entry in said.items():
            content = (options.export / name).read_bytes()
            must((len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"]), f"{name} changed")
        slides = tiles = 0
        for path in sorted(options.features.glob("*.h5")):
            features, coords, attributes = plain(path)
            try:
                globals()[options.target](options.export, path, features, coords, attributes)
            except Wrong as wrong:
                raise Wrong(f"{path.stem}: {wrong}") from None
            slides, tiles = slides + 1, tiles + len(features)
        must(slides, f"no *.h5 in {options.features}")
        print(json.dumps({"slides": slides, "tiles": tiles, "torch": "torch" in sys.modules}))
    except Wrong as wrong:
        print(f"{options.target}: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
