#!/usr/bin/env python3
"""Makes testdata/icc/: slides with colour profiles, whose pixels are crops of testdata/CMU-1-Small-Region.svs (CC0).

The profiles are written here, byte by byte, as ICC.1:2001 says: one of a matrix and curves (Adobe RGB's primaries, another
gamma for each channel) and one with a table from RGB to Lab, as scanners embed. tests/icc.rs compares the tiles that paraffin
reads with `reference.py icc`: openslide-python, Pillow's ImageCms, Pillow's resize.

    .venv/bin/python scripts/make_icc_testdata.py
"""

import struct

import imagecodecs  # noqa: F401  (tifffile decodes with it)
import numpy as np
import tifffile

import make_testdata as base

FOLDER = base.TESTDATA / "icc"
WHITE = np.array([0.9642, 1.0, 0.8249])  # D50, of the connection space

# Adobe RGB (1998), and D65.
PRIMARIES, D65 = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), (0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
GAMMAS = (1.8, 2.0, 2.2)


def fixed(values):
    return b"".join(struct.pack(">i", round(float(v) * 65536)) for v in values)


def padded(data):
    return data + b"\0" * (-len(data) % 4)


def profile(kind, space, tags):
    name = b"paraffin test profile\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 78
    tags = [(b"desc", padded(desc)), (b"cprt", padded(b"text\0\0\0\0CC0\0")), (b"wtpt", b"XYZ \0\0\0\0" + fixed(WHITE)), *tags]
    at, table, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags:
        table += tag + struct.pack(">II", at + len(data), len(content))
        data += content
    head = struct.pack(">I4xI4s4s4s6H4s28x", at + len(data), 0x02400000, kind, b"RGB ", space, 2026, 1, 1, 0, 0, 0, b"acsp")
    return head + fixed(WHITE) + b"\0" * 48 + table + data


def to_xyz():
    """From linear RGB to XYZ under D50."""
    white = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    primaries = np.array([[x / y, 1, (1 - x - y) / y] for x, y in PRIMARIES]).T
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ WHITE) / (BRADFORD @ white)) @ BRADFORD
    return adapt @ (primaries * np.linalg.solve(primaries, white))


def matrix_profile():
    def curve(gamma):
        steps = (np.linspace(0, 1, 256) ** gamma * 65535).round().astype(">u2")
        return padded(b"curv\0\0\0\0" + struct.pack(">I", len(steps)) + steps.tobytes())

    columns = [(tag, b"XYZ \0\0\0\0" + fixed(c)) for tag, c in zip((b"rXYZ", b"gXYZ", b"bXYZ"), to_xyz().T)]
    return profile(b"mntr", b"XYZ ", columns + list(zip((b"rTRC", b"gTRC", b"bTRC"), map(curve, GAMMAS))))


def table_profile(n=9):
    steps = np.linspace(0, 1, n)
    linear = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1) ** GAMMAS
    # Black is lifted and white is a little under paper's, as behind glass.
    relative = (linear @ to_xyz().T * 0.97 + 0.004 * WHITE) / WHITE
    f = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    lab = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
    coded = (lab * (652.8, 256, 256) + (0, 32768, 32768)).round().clip(0, 65535).astype(">u2")
    straight = struct.pack(">HH", 0, 65535) * 3
    head = b"mft2\0\0\0\0" + bytes([3, 3, n, 0]) + fixed(np.eye(3).ravel()) + struct.pack(">HH", 2, 2)
    return profile(b"scnr", b"Lab ", [(b"A2B0", padded(head + straight + coded.tobytes() + straight))])


def broken_profile():
    return table_profile(3)[:300]


PROFILES = {"matrix": matrix_profile, "table": table_profile, "broken": broken_profile}


def write(name, purpose, pixels, coding, icc, aperio):
    case = base.Case(name, purpose, pixels, coding, 256, mpp=0.5, resolution_cm=None if aperio else 20000,
                     aperio={"AppMag": 20, "MPP": 0.5} if aperio else None)
    path = FOLDER / name
    blocks = [coding.encode(b) for b in base.blocks_of(pixels, 256, "edge")]
    jpeg = isinstance(coding, base.Jpeg)
    how = {"jpegtables": blocks[0][1]} if jpeg and blocks[0][1] else {}
    how |= coding.container() if jpeg else {"photometric": "rgb"}
    how |= {"predictor": coding.predictor} if coding.predictor else {}
    if not aperio:
        how |= {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write((b for b, _ in blocks), shape=pixels.shape, dtype=np.uint8, tile=(256, 256), compression=coding.compression,
                   description=case.description(pixels), metadata=None, software=False, iccprofile=icc, **how)
    e = base.entry(path, purpose, "scripts/make_icc_testdata.py from CMU-1-Small-Region.svs", 0.5, coding.lossless, True)
    return e | {"file": name}


def main():
    FOLDER.mkdir(exist_ok=True)
    source = tifffile.imread(base.TESTDATA / base.SOURCE, key=0)
    tissue = base.crop(source, 600, 1200, 500, 400)
    small = base.crop(source, 700, 1300, 64, 64)
    entries = [
        write("matrix.svs", "an ICC profile of a matrix and curves", tissue, base.Jpeg("420"), matrix_profile(), True),
        write("table.tif", "an ICC profile with a table to Lab", tissue, base.Jpeg("420"), table_profile(), False),
        write("broken.tif", "an ICC profile that is cut short", small, base.Jpeg("420"), broken_profile(), False),
    ]
    (FOLDER / "manifest.toml").write_text(base.manifest(entries).replace("make_testdata.py", "make_icc_testdata.py"))
    for e in entries:
        print(f"{e['bytes']:7} {e['file']}  {e['purpose']}")


if __name__ == "__main__":
    main()
