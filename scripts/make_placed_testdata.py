#!/usr/bin/env python3
"""Makes the small slides in testdata/placed/: Leica SCN, Ventana BIF and Trestle, whose blocks lie anywhere on a level.

No real file of these vendors is at hand: the containers are emulated after openslide.org/formats and OpenSlide's
behaviour; the pixels are crops of testdata/CMU-1-Small-Region.svs (CC0). The golden values are what OpenSlide makes of
the finished files, composed on white; where places are whole pixels, this script composes the levels on its own as well
and both must agree.

    scripts/setup --dev
    .venv/bin/python scripts/make_placed_testdata.py            # make everything anew
    .venv/bin/python scripts/make_placed_testdata.py --check    # are the files there those of the manifest?
"""

import argparse
import hashlib
import sys
import tomllib

import numpy as np
import openslide
import tifffile

from make_testdata import (SOURCE, SOURCE_SHA256, TESTDATA, Jpeg, Lossless, blocks_of, crop, manifest, mean_rgb,
                           openslide_levels, reduced)

FOLDER = TESTDATA / "placed"
MAX_FILE_BYTES, MAX_TOTAL_BYTES = 60_000, 240_000
BLOCK = 64
JPEG, LOSSLESS = Jpeg("420", quality=50), Lossless("deflate", True)


def write(tiff, picture, coding, *, description=None, subfiletype=0, xmp=None, software=False, resolution=None,
          blocks=None, missing=()):
    """A tiled page; `blocks` instead of the picture's own, where they overlap."""
    coded, tables = [], None
    for number, block in enumerate(blocks or blocks_of(picture, BLOCK, "zero" if coding.lossless else "edge")):
        data, tables_here = (b"", tables) if number in missing else coding.encode(block)
        coded.append(data)
        tables = tables_here if tables is None else tables
    how = {"photometric": "rgb"} | coding.container()
    if resolution:
        how |= {"resolution": resolution[0], "resolutionunit": resolution[1]}
    tiff.write(iter(coded), shape=picture.shape, dtype=np.uint8, tile=(BLOCK, BLOCK), compression=coding.compression,
               predictor=coding.predictor, jpegtables=tables, description=description, metadata=None, software=software,
               subfiletype=subfiletype, extratags=[(700, 1, len(xmp), xmp, True)] if xmp else [], **how)


def decoded(picture, coding):
    """What a reader gets from the picture's blocks."""
    if coding.lossless:
        return picture
    out = np.zeros_like(picture)
    h, w = picture.shape[:2]
    grid = [(y, x) for y in range(0, h, BLOCK) for x in range(0, w, BLOCK)]
    for (y, x), block in zip(grid, blocks_of(picture, BLOCK, "edge"), strict=True):
        out[y:y + BLOCK, x:x + BLOCK] = decoded_block(block, coding)[:h - y, :w - x]
    return out


def decoded_block(block, coding):
    import imagecodecs
    if coding.lossless:
        return block
    data, tables = coding.encode(block)
    return imagecodecs.jpeg8_decode(data, tables=tables)


def canvas(width, height):
    return np.full((height, width, 3), 255, np.uint8)


def paint(out, picture, x, y):
    h, w = out[y:, x:].shape[:2]
    out[y:y + picture.shape[0], x:x + picture.shape[1]] = picture[:h, :w]


# --- Leica SCN -------------------------------------------------------------------------------------------------------

SCN = {"2010/03": "http://www.leica-microsystems.com/scn/2010/03/10",
       "2010/10": "http://www.leica-microsystems.com/scn/2010/10/01"}


def scn(path, namespace, collection, images, coding):
    """images: (offset px, level-0 picture or None, factors, illumination, objective); 250 nm a pixel at level 0.

    Returns the levels on the collection's canvas as they must be read.
    """
    nm = 250
    pages, xml_images = [], []
    macro = reduced(np.tile(np.uint8([[[0, 0, 255]]]), (collection[1] // 4, collection[0] // 4, 1)), 1, False)
    pages.append((macro, Jpeg("420")))
    xml_images.append(f'<image name="made-up" uuid="urn:uuid:00000000"><creationDate>2001-02-03T04:05:06Z</creationDate>'
                      f'<device model="Leica SCN400;Leica SCN" version="1.4"/><pixels sizeX="{macro.shape[1]}" '
                      f'sizeY="{macro.shape[0]}"><dimension sizeX="{macro.shape[1]}" sizeY="{macro.shape[0]}" r="0" ifd="0"/>'
                      f'</pixels><view sizeX="{collection[0] * nm}" sizeY="{collection[1] * nm}" offsetX="0" offsetY="0" '
                      'spacingZ="0"/><scanSettings><objectiveSettings><objective>0.60833</objective></objectiveSettings>'
                      '<illuminationSettings><numericalAperture>0.05</numericalAperture><illuminationSource>brightfield'
                      '</illuminationSource></illuminationSettings></scanSettings></image>')
    factors = images[0][2]
    levels = [canvas(-(-collection[0] // f), -(-collection[1] // f)) for f in factors]
    for (x, y), picture, factors, illumination, objective in reversed(images):
        if illumination != "brightfield":
            continue
        for level, f in zip(levels, factors, strict=True):
            paint(level, decoded(reduced(picture, f, False), coding), x // f, y // f)
    for (x, y), picture, factors, illumination, objective in images:
        h, w = picture.shape[:2]
        dimensions = []
        for z in (0, 1):
            for r, f in enumerate(factors):
                level = reduced(picture, f, False)
                # Another focal plane: unmistakable.
                level = level if z == 0 else np.full_like(level, (0, 255, 0))
                dimensions.append(f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" z="{z}" r="{r}" '
                                  f'ifd="{len(pages)}"/>')
                pages.append((level, coding if z == 0 else Jpeg("420")))
        xml_images.append(
            f'<image name="image"><creationDate>2001-02-03T04:05:06Z</creationDate><pixels sizeX="{w}" sizeY="{h}" '
            f'sizeZ="2">{"".join(reversed(dimensions))}</pixels><view sizeX="{w * nm}" sizeY="{h * nm}" offsetX="{x * nm}" '
            f'offsetY="{y * nm}" spacingZ="1500"/><scanSettings><objectiveSettings><objective>{objective}</objective>'
            f'</objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>'
            f'{illumination}</illuminationSource></illuminationSettings></scanSettings></image>')
    barcode = "<barcode>bWFkZS11cA==</barcode>" if namespace == "2010/10" else ""
    attribute = "" if barcode else ' barcode="made-up"'
    xml = (f'<?xml version="1.0"?>\n<scn xmlns="{SCN[namespace]}" uuid="urn:uuid:00000000"><collection name="made-up" '
           f'sizeX="{collection[0] * nm}" sizeY="{collection[1] * nm}"{attribute}>{barcode}{"".join(xml_images)}'
           '</collection></scn>')
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, (picture, how) in enumerate(pages):
            write(tiff, picture, how, description=xml if number == 0 else None, subfiletype=1 if number else 0,
                  resolution=((10_000_000 / nm,) * 2, "centimeter"))
    return levels


# --- Ventana ---------------------------------------------------------------------------------------------------------


def serpentine(column, row, columns, rows):
    """A tile's number in the joints: from the bottom left, every other row backwards, counted from 1."""
    up = rows - 1 - row
    return up * columns + (columns - 1 - column if up % 2 else column) + 1


def bif(path, areas, overlap, coding, factors, iscan, grid, jitter=0, jitter_y=0, macro="Label Image", attributes=""):
    """areas: (picture, first column, first row, columns, rows, Pos-X, top), the picture as stitched.

    Blocks overlap by `overlap`; `jitter` is added to every other overlap, so that the mean is no whole number. Stored blocks
    are cut from the pictures where OpenSlide will put them. Returns the levels, or None where places are fractional.
    """
    step = (BLOCK - overlap[0], BLOCK - overlap[1])
    bottom = max(top + step[1] * (rows - 1) + BLOCK for *_, rows, _, top in areas)
    stored = np.full((grid[1] * BLOCK, grid[0] * BLOCK, 3), 230, np.uint8)
    infos, origins = [], []
    for number, (picture, first_column, first_row, columns, rows, left, top) in enumerate(areas):
        joints = []
        for row in range(rows):
            for column in range(columns):
                tile = crop(picture, column * step[0], row * step[1], BLOCK, BLOCK)
                paint(stored, tile, (first_column + column) * BLOCK, (first_row + row) * BLOCK)
                here = serpentine(column, row, columns, rows)
                if column + 1 < columns:
                    joints.append(("RIGHT", here, serpentine(column + 1, row, columns, rows),
                                   overlap[0] + jitter * (column % 2), 0))
                if row > 0:
                    joints.append(("UP", here, serpentine(column, row - 1, columns, rows), 0,
                                   overlap[1] + jitter_y * (row % 2)))
        joints = "".join(f'<TileJointInfo FlagJoined="1" Confidence="{90 if jitter == 0 else 80 + n % 3}" Direction="{d}" '
                         f'Tile1="{a}" Tile2="{b}" OverlapX="{ox}" OverlapY="{oy}"/>'
                         for n, (d, a, b, ox, oy) in enumerate(joints))
        height = step[1] * (rows - 1) + BLOCK
        infos.append(f'<ImageInfo AOIScanned="1" AOIIndex="{number}" NumRows="{rows}" NumCols="{columns}" '
                     f'Width="{BLOCK}" Height="{BLOCK}" Pos-X="{left}" Pos-Y="{bottom - top - height}">{joints}</ImageInfo>')
        origins.append(f'<AOI{number} OriginX="{first_column * BLOCK}" OriginY="{first_row * BLOCK}"/>')
    encode = (f'<?xml version="1.0" encoding="utf-8"?><EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo>{"".join(infos)}'
              f'</SlideStitchInfo><AoiOrigin>{"".join(origins)}</AoiOrigin></EncodeInfo>').encode()
    levels = []
    pages = [stored] + [reduced(stored, f, True) for f in factors[1:]]
    for f, page in zip(factors, pages, strict=True):
        pixels = decoded(page, coding)
        size = [max(a[5 + i] + step[i] * (a[3 + i] - 1) + BLOCK for a in areas) for i in (0, 1)]
        level = canvas(-(-size[0] // f), -(-size[1] // f))
        part = BLOCK // f
        tiles = [(first_row + row, first_column + column, left + column * step[0], top + row * step[1])
                 for _, first_column, first_row, columns, rows, left, top in areas
                 for row in range(rows) for column in range(columns)]
        for row, column, x, y in sorted(tiles):
            paint(level, crop(pixels, column * part, row * part, part, part), x // f, y // f)
        levels.append(level)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        label = np.full((64, 64, 3), (255, 0, 0), np.uint8)
        write(tiff, label, Jpeg("420"), description=macro, xmp=iscan.encode())
        if macro == "Label Image":
            write(tiff, label, Jpeg("420"), description="Thumbnail")
        for number, (f, page) in enumerate(zip(factors, pages)):
            write(tiff, page, coding, description=f"level={number} mag={40 / f:g} quality=90",
                  xmp=encode if number == 0 else None, subfiletype=1 if number else 0)
    return levels if jitter == 0 and jitter_y == 0 else None


def ventana_tiff(path, picture, factors, iscan, coding):
    """A TIFF as Ventana's scanners export it: iScan, levels, no joints."""
    with tifffile.TiffWriter(path) as tiff:
        write(tiff, np.full((64, 64, 3), (255, 0, 0), np.uint8), Jpeg("420"), description="Label_Image", xmp=iscan.encode())
        for number, f in enumerate(factors):
            write(tiff, reduced(picture, f, True), coding, description=f"level={number} mag={40 / f:g} quality=90")
    return [decoded(reduced(picture, f, True), coding) for f in factors]


ISCAN = ('Magnification="40" ScanRes="0.25" Z-layers="1" UserName="made-up" BarCode1D="made-up" UnitNumber="000" '
         'BuildDate="1/2/2003" SlideAnnotation=""')


# --- Trestle ---------------------------------------------------------------------------------------------------------


def trestle(path, picture, factors, overlaps, coding):
    """Levels whose blocks overlap by `overlaps` each; the pages' sizes count the overlapping pixels twice."""
    levels = []
    text = "".join(f" {x} {y}" for x, y in overlaps)
    description = f"Background Color=E6E6E6;White Balance=DAE6F0;Objective Power=20;JPEG Quality=50;OverlapsXY={text}"
    with tifffile.TiffWriter(path) as tiff:
        for number, (f, (ox, oy)) in enumerate(zip(factors, overlaps, strict=True)):
            level = reduced(picture, f, False)
            columns = max(1, -(-(level.shape[1] - ox) // (BLOCK - ox)))
            rows = max(1, -(-(level.shape[0] - oy) // (BLOCK - oy)))
            height, width = level.shape[0] + (rows - 1) * oy, level.shape[1] + (columns - 1) * ox
            padded = np.pad(level, [(0, BLOCK), (0, BLOCK), (0, 0)], mode="edge")
            cut = [(row, column, crop(padded, column * (BLOCK - ox), row * (BLOCK - oy), BLOCK, BLOCK))
                   for row in range(rows) for column in range(columns)]
            assert (-(-width // BLOCK), -(-height // BLOCK)) == (columns, rows), (width, height, columns, rows)
            write(tiff, np.zeros((height, width, 3), np.uint8), coding, blocks=[b for *_, b in cut],
                  description=description, software="MedScan", subfiletype=1 if number else 0,
                  resolution=((0.46, 0.46), "none"))
            out = canvas(level.shape[1], level.shape[0])
            for row, column, block in cut:
                paint(out, decoded_block(block, coding), column * (BLOCK - ox), row * (BLOCK - oy))
            levels.append(out)
    return levels


# --- all of them -----------------------------------------------------------------------------------------------------


def cases(source):
    """(file, format, purpose, mpp, lossless, make)"""
    tissue = crop(source, 640, 1380, 420, 320)
    other = crop(source, 1000, 700, 180, 140)
    bright = "brightfield"
    metadata = f"<Metadata><iScan {ISCAN} ScannerModel=\"VENTANA DP 200\"/></Metadata>"
    iscan = f"<iScan {ISCAN}/>"
    return [
        ("scn_one_area.scn", "leica", "one area at an offset that is no multiple of its blocks; macro, a second focal plane",
         0.25, False, lambda p: scn(p, "2010/10", (500, 700), [((124, 232), crop(tissue, 0, 0, 292, 240), (1, 4), bright, 40)],
                                    JPEG)),
        ("scn_areas.scn", "leica", "2010/03 namespace, two areas that overlap (the first in the list is on top), fluorescence",
         0.25, True, lambda p: scn(p, "2010/03", (280, 300), [
             ((40, 36), crop(tissue, 60, 60, 88, 72), (1, 2), bright, 40),
             ((100, 90), crop(other, 0, 0, 92, 100), (1, 2), bright, 40),
             ((200, 10), crop(other, 0, 0, 16, 16), (1, 2), "fluorescence", 40)], LOSSLESS)),
        ("bif_overlap.bif", "ventana", "two areas of blocks that overlap by 8 x 4 px; levels 2 and 4 hold parts of blocks",
         0.25, False, lambda p: bif(p, [(tissue, 0, 0, 4, 3, 12, 0), (other, 4, 0, 2, 2, 276, 88)], (8, 4), JPEG, (1, 2, 4),
                                    iscan, (6, 3))),
        ("bif_fractional.bif", "ventana", "joints of different overlap: the mean is no whole number, blocks are rounded to pixels",
         0.25, False, lambda p: bif(p, [(tissue, 0, 0, 5, 3, 0, 0)], (6, 0), JPEG, (1, 2), iscan, (5, 3), jitter=3)),
        ("bif_dp200.bif", "ventana", "ScannerModel VENTANA DP 200: iScan within Metadata, Label_Image, no overlap",
         0.25, False, lambda p: bif(p, [(tissue, 0, 0, 3, 3, 0, 0)], (0, 0), JPEG, (1, 2), metadata, (3, 3),
                                    macro="Label_Image")),
        ("ventana.tif", "ventana", "a TIFF with iScan and without joints: a regular grid", 0.25, False,
         lambda p: ventana_tiff(p, crop(tissue, 100, 100, 210, 150), (1, 2), iscan, JPEG)),
        ("trestle.tif", "trestle", "blocks that overlap by 8 x 6, 4 x 2 and 0 px on three levels", 0.46, False,
         lambda p: trestle(p, crop(tissue, 0, 0, 330, 250), (1, 2, 4), [(8, 6), (4, 2), (0, 0)], JPEG)),
    ]


# Where OpenSlide interpolates, paraffin's rounded places give other pixels.
INTERPOLATED = {"bif_fractional.bif"}


def entry(path, name, purpose, mpp, lossless, wanted):
    """A file's golden values from OpenSlide. Fails where what this script composed differs."""
    levels, mpps = openslide_levels(path)
    assert all(abs(m - mpp) < 1e-6 for m in mpps), (path.name, mpps)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == name
        downsamples = slide.level_downsamples
    if wanted is not None:
        assert len(wanted) == len(levels), (path.name, len(wanted), len(levels))
        for number, (a, b) in enumerate(zip(levels, wanted)):
            assert a.shape == b.shape, (path.name, number, a.shape, b.shape)
            difference = np.abs(a.astype(int) - b)
            assert difference.max() == 0 if lossless else difference.mean() < 1.0, (path.name, number, difference.mean(),
                                                                                   difference.max())
    blob = path.read_bytes()
    out = {"file": path.name, "sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob), "purpose": purpose,
           "origin": f"scripts/make_placed_testdata.py from {SOURCE}", "license": "CC0-1.0", "format": name,
           "openslide": True, "lossless": lossless, "mpp": mpp, "golden_from": ["openslide"]}
    out["level"] = []
    for picture, downsample in zip(levels, downsamples, strict=True):
        height, width = picture.shape[:2]
        places = [(width * i // 7, height * j // 5) for i in range(1, 7) for j in range(1, 5)]
        # Pixels of even surroundings: those that interpolation or another decoder's chroma would not change.
        flat = [(x, y) for x, y in places if 1 < x < width - 2 and 1 < y < height - 2
                and np.ptp(picture[y - 1:y + 2, x - 1:x + 2].astype(int), axis=(0, 1)).max() <= 6]
        level = {"width": width, "height": height, "block_px": BLOCK, "mean_rgb": mean_rgb(picture),
                 "pixels": [[x, y, *map(int, picture[y, x])] for x, y in flat]}
        if lossless:
            level["rgb_sha256"] = hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()
        out["level"].append(level)
    return out


HEADER = """\
# Made by scripts/make_placed_testdata.py; do not edit. What the slides in this folder are, and what a reader must find in
# them: the values that OpenSlide gives, on white. See ../manifest.toml for the keys.
#   pixels   [x, y, red, green, blue] at places with even surroundings
"""


def make(only):
    digest = hashlib.sha256((TESTDATA / SOURCE).read_bytes()).hexdigest()
    if digest != SOURCE_SHA256:
        sys.exit(f"not the expected source slide: sha256 {digest}: {TESTDATA / SOURCE}")
    everything = [c for c in cases(tifffile.imread(TESTDATA / SOURCE, key=0)) if c[0].startswith(only)]
    FOLDER.mkdir(exist_ok=True)
    for stale in {p for p in FOLDER.iterdir() if p.is_file()} - {FOLDER / c[0] for c in everything}:
        stale.unlink()
    entries = []
    for file, name, purpose, mpp, lossless, write_to in everything:
        wanted = write_to(FOLDER / file)
        entries.append(entry(FOLDER / file, name, purpose, mpp, lossless, wanted))
        assert entries[-1]["bytes"] < MAX_FILE_BYTES, f"{file} has {entries[-1]['bytes']} bytes"
        print(f"{entries[-1]['bytes']:7} {file}  {purpose}")
    total = sum(e["bytes"] for e in entries)
    assert total < MAX_TOTAL_BYTES, total
    (FOLDER / "manifest.toml").write_text(manifest(entries, HEADER))
    print(f"{total:7} in {len(entries)} files")


def check():
    """The committed files against the manifest: their bytes, and what today's OpenSlide reads from them."""
    listed = tomllib.loads((FOLDER / "manifest.toml").read_text())["file"]
    there = {p.name for p in FOLDER.iterdir() if p.is_file()} - {"manifest.toml"}
    assert there == {e["file"] for e in listed}, "testdata/placed and its manifest list different files"
    for e in listed:
        now = entry(FOLDER / e["file"], e["format"], e["purpose"], e["mpp"], e["lossless"], None)
        assert now == e, f"{e['file']} is not what the manifest says"
    print(f"{len(listed)} files are as the manifest says")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; compare the files with the manifest")
    parser.add_argument("--only", default="", help="make only files that begin so (for work on this script)")
    arguments = parser.parse_args()
    check() if arguments.check else make(arguments.only)


if __name__ == "__main__":
    main()
