#!/usr/bin/env python3
"""Makes an OUT of many synthetic slides for the report's and the viewer's tests and benchmarks: what paraffin would have
left, with small feature files, overviews, records, warnings and failures, and no slides.

Features are smooth fields over each slide's tissue, mixed into more values, with noise: three components hold most of their
variance, as in real ones. One slide in twenty is shifted; one has no tiles; some ids are hostile to HTML.

    .venv/bin/python scripts/make_cohort.py OUT --slides 1000
"""

import argparse
import hashlib
import io
import json
import pathlib

import h5py
import numpy as np
from PIL import Image

GRID, ENCODER, TILE_PX = "20x_256px_0px_overlap", "synthetic", 256
HOSTILE = ["<img src=x onerror=document.title='owned'>", "'\"&amp;<script>document.title='owned'<!script>", "ü 標本 \u202e"]


def canonical(value):
    """RFC 8785 for the values that are here: whole floats print without a point."""
    if isinstance(value, dict):
        return {k: canonical(value[k]) for k in sorted(value)}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [canonical(v) for v in value] if isinstance(value, list) else value


def contract(dim):
    return {
        "schema": "paraffin-contract/1",
        "grid": {
            "target_mpp": 0.5, "mpp_tolerance": 0.05, "tile_px": TILE_PX, "overlap_px": 0, "level_rule": "synthetic",
            "decode": "exact", "resample": "bilinear", "fill": "white", "allow_upsample": False,
            "min_tissue_fraction": 0.1, "tissue": {"method": "otsu"}, "icc": "off", "coords": "synthetic",
        },
        "encoder": {
            "id": ENCODER, "sha256": "0" * 64, "input_px": 256, "layout": "nchw", "dtype": "float32",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize": "none", "output": "features", "pooling": "none",
            "dim": dim,
        },
        "storage": {"precision": "f32-m10"},
    }


def round10(values):
    """float32 with a mantissa of 10 bits, to nearest."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view("<f4")


class Maker:
    def __init__(self, out, dim, tiles, overview_px, seed):
        self.out, self.dim, self.tiles, self.overview_px = out, dim, tiles, overview_px
        self.rng = np.random.default_rng(seed)
        self.grid = out / GRID
        self.artefact = f"features_{ENCODER}"
        for folder in ("contracts", self.artefact, f"records/{self.artefact}", "overviews"):
            (self.grid / folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(canonical(contract(dim)), separators=(",", ":"), ensure_ascii=False, sort_keys=True)
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        (self.grid / "contracts" / f"{self.artefact}.json").write_text(json.dumps(contract(dim)))
        self.mixing = self.rng.normal(size=(3, dim)) * np.array([[3], [2], [1]])

    def slide(self, number, name):
        rng = self.rng
        side = max(4, int((self.tiles * 2) ** 0.5))
        columns, rows = int(side * rng.uniform(0.8, 1.4)), int(side * rng.uniform(0.8, 1.4))
        mpp = 0.25 if number % 3 else 0.5
        step = int(TILE_PX * 0.5 / mpp)
        y, x = np.mgrid[:rows, :columns]
        cx, cy = columns * rng.uniform(0.4, 0.6), rows * rng.uniform(0.4, 0.6)
        radius = ((x - cx) / columns) ** 2 + ((y - cy) / rows) ** 2
        angle = np.arctan2(y - cy, x - cx)
        tissue = radius < 0.16 * (1 + 0.3 * np.sin(3 * angle + rng.uniform(0, 6)))
        if number == 7:
            tissue[:] = False
        wave = rng.uniform(0.5, 1.5)
        fields = np.stack([np.sin(wave * x / 3 + y / 7), np.cos(wave * y / 4), np.sin((x + y) / 5)], -1)
        if number % 20 == 3:
            fields = fields * 0.3 + np.array([1.5, -1.5, 1.0])
        ys, xs = np.nonzero(tissue)
        coords = np.stack([xs, ys], -1).astype("<i8") * step
        features = round10(fields[ys, xs] @ self.mixing + rng.normal(size=(len(xs), self.dim)) * 0.5)
        path = f"{self.artefact}/{name}.h5"
        with h5py.File(self.grid / path, "w", track_order=False) as f:
            f.attrs.update(contract_sha256=self.sha256, encoder=ENCODER, encoder_sha256="0" * 64, mpp_level0=mpp,
                           mpp_target=0.5, schema="paraffin-features/1")
            chunk = {"chunks": (min(256, len(xs)), self.dim), "compression": 1, "shuffle": True} if len(xs) else {}
            f.create_dataset("features", data=features, **chunk)
            data = f.create_dataset("coords", data=coords.reshape(-1, 2))
            data.attrs.update(level0_height=rows * step, level0_width=columns * step, level0_magnification=10 / mpp,
                              target_magnification=20, name=name, overlap=0, patch_size=TILE_PX,
                              patch_size_level0=step, savetodir="")
        content = (self.grid / path).read_bytes()
        record = {
            "schema": "paraffin-record/1", "id": name, "artefact": self.artefact, "contract_sha256": self.sha256,
            "files": [{"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}],
            "tiles": {"planned": len(xs) + number % 11 // 10, "written": len(xs), "failed": number % 11 // 10},
            "slide": {"format": ["aperio", "ndpi", "dicom"][number % 3], "reader": "native", "width": columns * step,
                      "height": rows * step, "mpp_x": mpp, "mpp_y": mpp, "mpp_source": "vendor",
                      "objective_power": 10 / mpp},
            "read": {"level": 0, "level_downsample": 1.0, "reduction": 0.5 / mpp, "block_scale": 1,
                     "resampled": mpp != 0.5, "tile_size_level0": step, "effective_mpp": 0.5},
            "tissue": {"area_mm2": len(xs) * (step * mpp / 1000) ** 2, "found": {
                "method": "auto", "chosen": "otsu", "why": "stained tissue on bright glass",
                "suspicion": None if len(xs) else "no tissue found: the feature file is empty",
                "artefacts_mm2": {"pen": 0.25 if number % 13 == 5 else 0.0},
                "tiles_dropped": {"pen": 3} if number % 13 == 5 else {},
                # A slide without tiles has no means, one in nine was too coarse to judge focus.
                "qc_mean": {"tissue": 0.9 if len(xs) else None, "blur": number % 10 / 20 if len(xs) and number % 9 else None,
                            "pen": 0.01 * (number % 13 == 5) if len(xs) else None, "white": 0.125 if len(xs) else None,
                            "black": 0.0 if len(xs) else None}}},
            "warnings": [] if number % 13 != 5 and len(xs) else ["no tissue found: the feature file is empty"
                                                                  if not len(xs) else "pen marks were cut out"],
            "runtime": {"paraffin": "0.1.0", "onnxruntime": "1.31.1", "device": "cpu"},
        }
        (self.grid / "records" / self.artefact / f"{name}.json").write_text(json.dumps(record, indent=2))
        self.overview(name, tissue)

    def overview(self, name, tissue):
        rows, columns = tissue.shape
        scale = self.overview_px / max(rows, columns)
        size = (round(columns * scale), round(rows * scale))
        mask = np.asarray(Image.fromarray(tissue.astype("u1") * 255).resize(size, Image.BICUBIC), "f4")[..., None] / 255
        grain = self.rng.normal(size=(size[1] // 2 + 1, size[0] // 2 + 1, 1)).repeat(2, 0).repeat(2, 1)
        pink = np.array([196, 120, 170]) + 30 * grain[: size[1], : size[0]]
        picture = 244 * (1 - mask) + pink * mask
        buffer = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype("u1")).save(buffer, "jpeg", quality=85)
        (self.grid / "overviews" / f"{name}.jpg").write_bytes(buffer.getvalue())

    def failure(self, name, kind, message):
        folder = self.out / "site-private/failures" / GRID / self.artefact
        folder.mkdir(parents=True, exist_ok=True)
        note = {"id": name, "kind": kind, "message": message, "path": f"/archive/{name}.svs"}
        (folder / f"{name}.json").write_text(json.dumps(note))

    def run(self, worker, slides, stalled):
        """A run of two minutes; `stalled`: its encoders wait half of the time in its second half."""
        samples = []
        for second in range(0, 121, 4):
            waits = max(0, second - 60) / 2 if stalled else 0.0
            samples.append({"seconds": float(second), "tiles": int(100 * (second - waits)), "preparing": 0.1 * second,
                            "reading": 0.5 * second, "embedding": second - waits, "writing": 0.05 * second,
                            "model_waits": waits, "readers_wait_model": 0.5 * second, "disk": 0.02 * second})
        note = {"schema": "paraffin-run/1", "worker": worker, "grid": GRID, "artefact": self.artefact, "slides_done": slides,
                "slides_failed": 1, "samples": samples}
        folder = self.out / "site-private/runs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{worker}.json").write_text(json.dumps(note))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--tiles", type=int, default=300, help="per slide, about")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--overview-px", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    maker = Maker(args.out, args.dim, args.tiles, args.overview_px, args.seed)
    for number in range(args.slides):
        maker.slide(number, HOSTILE[number - 10] if 10 <= number < 10 + len(HOSTILE) else f"S{number:05}")
    for number in range(max(2, args.slides // 100)):
        why = [("mpp", "no microns-per-pixel in this slide; give it with --mpp"),
               ("damaged", "damaged slide: the tile at x 0, y 0 cannot be read </script><b>bold</b>")][number % 2]
        maker.failure(f"F{number:05}", *why)
    for number, worker in enumerate(["worker-smooth", "worker-stalled"]):
        maker.run(worker, args.slides // 2, stalled=bool(number))
    print(args.out / GRID)


if __name__ == "__main__":
    main()
