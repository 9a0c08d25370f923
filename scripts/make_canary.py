#!/usr/bin/env python3
"""Makes src/pipeline/canary.tif, the synthetic slide that every run embeds beside its own (src/pipeline/canary.rs).

A pyramid of two levels, 2048 and 256 pixels wide, in JPEG blocks of 256 pixels with 4:2:0 chroma. Nothing in it comes from a
slide: pixels are whole-number arithmetic over a linear congruential generator, in the colours of haematoxylin and eosin on
glass. Blocks repeat (several entries of TileOffsets name the same bytes), which keeps the file small, and it carries the matrix
profile of make_icc_testdata.py for runs with --icc srgb. It states no resolution: the run gives one that makes it decode all
blocks and resample them.

    .venv/bin/python scripts/make_canary.py            # make it anew
    .venv/bin/python scripts/make_canary.py --check    # is the file there the one that this script makes?
    .venv/bin/python scripts/make_canary.py --tiles 32 # sha256 of the synthetic tiles of so many pixels, one after the other
"""

import argparse
import hashlib
import io
import pathlib
import struct
import sys

import numpy as np
from PIL import Image

from make_icc_testdata import matrix_profile

PATH = pathlib.Path(__file__).resolve().parent.parent / "src/pipeline/canary.tif"
BLOCK, GRID, REDUCTION, QUALITY = 256, 8, 8, 75
# Blocks of glass, and of tissue.
GLASS, TISSUE = 1, 5

PAPER = np.array([242, 240, 243])
EOSIN = np.array([226, 160, 196])
HAEMATOXYLIN = np.array([96, 70, 148])


def noise(seed, count):
    """`count` whole numbers from 0 to 255."""
    out, state = np.empty(count, np.int64), seed
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = state >> 56
    return out


def smooth(seed, cell):
    """Noise of BLOCK pixels' side, linear between lattice points `cell` pixels apart; 0 to 255."""
    n = BLOCK // cell + 1
    lattice = noise(seed, n * n).reshape(n, n)
    at, part = np.arange(BLOCK) // cell, np.arange(BLOCK) % cell
    rows = lattice[at] * (cell - part)[:, None] + lattice[at + 1] * part[:, None]
    whole = rows[:, at] * (cell - part) + rows[:, at + 1] * part
    return whole // (cell * cell)


def mixed(a, b, share):
    """a where share is 0, b where it is 255."""
    return (a * (255 - share[..., None]) + b * share[..., None]) // 255


def block(kind, number):
    grain = noise(1000 * number + 7, BLOCK * BLOCK).reshape(BLOCK, BLOCK, 1) // 64
    if kind == "glass":
        return (PAPER + grain - 2).clip(0, 255).astype(np.uint8)
    stroma = smooth(3 * number + 1, 64)
    picture = mixed(EOSIN, (EOSIN + PAPER) // 2, stroma)
    nuclei = ((smooth(3 * number + 2, 16) - 140) * 6).clip(0, 255)
    picture = mixed(picture, HAEMATOXYLIN, nuclei)
    picture = mixed(picture, PAPER, ((smooth(3 * number + 3, 32) - 200) * 8).clip(0, 255))
    return (picture + 2 * grain - 3).clip(0, 255).astype(np.uint8)


def layout():
    """Number of the block at each place: tissue in the middle, its corners cut off, glass around."""
    places = np.empty((GRID, GRID), np.int64)
    for y in range(GRID):
        for x in range(GRID):
            edge = y in (0, GRID - 1) or x in (0, GRID - 1)
            corner = y in (1, GRID - 2) and x in (1, GRID - 2)
            n = y * GRID + x
            places[y, x] = n % GLASS if edge or corner else GLASS + (2 * x + y) % TISSUE
    return places


def coded(picture):
    """An abbreviated JPEG and its tables."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    data, tables, rest, at = file.getvalue(), b"", b"", 2
    while data[at + 1] != 0xDA:
        length = 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
        segment, kind = data[at:at + length], data[at + 1]
        at += length
        if kind in (0xDB, 0xC4):
            tables += segment
        elif kind != 0xE0:
            rest += segment
    return b"\xff\xd8" + rest + data[at:], b"\xff\xd8" + tables + b"\xff\xd9"


def slide():
    blocks = [block("glass", n) for n in range(GLASS)] + [block("tissue", n) for n in range(GLASS, GLASS + TISSUE)]
    places = layout()
    whole = np.concatenate([np.concatenate([blocks[n] for n in row], 1) for row in places])
    side = BLOCK * GRID // REDUCTION
    sums = whole.astype(np.int64).reshape(side, REDUCTION, side, REDUCTION, 3).sum((1, 3))
    low = ((sums + REDUCTION**2 // 2) // REDUCTION**2).astype(np.uint8)
    streams = [coded(picture) for picture in [*blocks, low]]
    tables = streams[0][1]
    assert all(t == tables for _, t in streams), "one set of tables for all blocks"

    out = bytearray(b"II*\0\0\0\0\0")

    def put(data):
        out.extend(b"\0" * (len(out) % 2))
        at = len(out)
        out.extend(data)
        return at

    starts = [(put(stream), len(stream)) for stream, _ in streams]
    pages = [
        (0, BLOCK * GRID, [starts[n] for n in places.ravel()], matrix_profile()),
        (1, side, [starts[-1]], b""),
    ]
    link = 4
    for reduced, width, tiles, profile in pages:
        longs = lambda values: (4, len(values), struct.pack(f"<{len(values)}I", *values))  # noqa: E731
        shorts = lambda *values: (3, len(values), struct.pack(f"<{len(values)}H", *values))  # noqa: E731
        tags = {
            254: longs([reduced]), 256: longs([width]), 257: longs([width]), 258: shorts(8, 8, 8), 259: shorts(7),
            262: shorts(6), 277: shorts(3), 284: shorts(1), 322: shorts(BLOCK), 323: shorts(BLOCK),
            324: longs([at for at, _ in tiles]), 325: longs([n for _, n in tiles]), 347: (7, len(tables), tables),
            530: shorts(2, 2),
        }
        if profile:
            tags[34675] = (7, len(profile), profile)
        entries = b""
        for tag, (kind, count, data) in sorted(tags.items()):
            value = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", put(data))
            entries += struct.pack("<HHI", tag, kind, count) + value
        at = put(struct.pack("<H", len(tags)) + entries + b"\0\0\0\0")
        out[link:link + 4] = struct.pack("<I", at)
        link = at + 2 + len(entries)
    return bytes(out)


def tiles(px):
    """The tiles that go straight to the encoder, as src/pipeline/canary.rs must make them."""
    def random(count):
        out, state = np.empty(count, np.int64), 0x9E3779B97F4A7C15
        for i in range(count):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            out[i] = state >> 56
        return out

    y, x = np.mgrid[:px, :px]
    ramps = np.stack([x * 255 // px, y * 255 // px, 255 - (x + y) * 255 // (2 * px)], -1)
    side = px // 16 + 2
    lattice = random(side * side).reshape(side, side)
    row, column, down, right = y // 16, x // 16, y % 16, x % 16
    upper = lattice[row, column] * (16 - right) + lattice[row, column + 1] * right
    lower = lattice[row + 1, column] * (16 - right) + lattice[row + 1, column + 1] * right
    level = ((upper * (16 - down) + lower * down) // 256)[..., None]
    paper, eosin, haematoxylin = np.array([[242, 240, 243], [226, 140, 190], [90, 60, 140]])
    pale = (paper * (256 - 2 * level) + eosin * 2 * level) // 256
    dark = (eosin * (256 - 2 * (level - 128)) + haematoxylin * 2 * (level - 128)) // 256
    texture = np.where(level < 128, pale, dark)
    return b"".join(t.astype(np.uint8).tobytes() for t in (random(px * px * 3), ramps, texture))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--tiles", type=int, metavar="PX")
    args = parser.parse_args()
    if args.tiles:
        return print(hashlib.sha256(tiles(args.tiles)).hexdigest())
    if args.check:
        if PATH.read_bytes() != slide():
            sys.exit(f"{PATH.name} is not what this script makes")
        return
    PATH.write_bytes(slide())
    print(f"{PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
