#!/usr/bin/env python3
"""Makes testdata/openslide/: a small slide of each vendor that paraffin reads through OpenSlide alone.

No real file of these vendors is free and small. The pixels are a crop of testdata/CMU-1-Small-Region.svs (CC0); the
containers are emulated after OpenSlide's descriptions of the formats (openslide.org/formats), with made-up identifiers.
Expected values come from openslide-python; lossless ones (CZI) are also the very pixels that were put in.

    scripts/setup --dev
    .venv/bin/python scripts/make_openslide_testdata.py
"""

import hashlib
import io
import pathlib
import shutil
import sqlite3
import struct

import numpy as np
import openslide
import tifffile
from imagecodecs import zstd_encode
from PIL import Image

from make_testdata import SOURCE, TESTDATA, crop, jpeg_segments, manifest, reduced

FOLDER = TESTDATA / "openslide"
MPP = 0.25


def jpeg(picture, subsampling="4:2:0", **how):
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=60, subsampling=subsampling, **how)
    return out.getvalue()


def ini(groups):
    return "".join(f"[{name}]\r\n" + "".join(f"{k}={v}\r\n" for k, v in keys.items()) for name, keys in groups.items())


def cut(picture, px):
    """(column, row, square) of a picture whose sides are multiples of px, row by row."""
    for row in range(picture.shape[0] // px):
        for col in range(picture.shape[1] // px):
            yield col, row, np.ascontiguousarray(picture[row * px:(row + 1) * px, col * px:(col + 1) * px])


def mirax(picture):
    """3DHISTECH: an empty .mrxs beside a folder with Slidedat.ini, an index of linked pages, and a file of JPEGs."""
    px, slide_id = 128, "MADEUPSLIDEID0123456789ABCDEF01"
    folder = FOLDER / "mirax"
    folder.mkdir()
    across, down = picture.shape[1] // px, picture.shape[0] // px
    data, pages = bytearray(b"01.02" + slide_id.encode() + b"000" + bytes(256)), []
    for level in range(2):
        entries = []
        for col, row, square in cut(reduced(picture, 2**level, False), px):
            stream = jpeg(square)
            entries.append(((row << level) * across + (col << level), len(data), len(stream), 0))
            data += stream
        pages.append(entries)
    (folder / "Data0000.dat").write_bytes(data)
    head = b"01.02" + slide_id.encode()
    table = len(head) + 8  # after the two roots
    at, pointers, body = table + 4 * len(pages), [], b""
    for entries in pages:
        pointers.append(at)
        record = struct.pack("<2i", 0, at + 8) + struct.pack("<2i", len(entries), 0)
        record += b"".join(struct.pack("<4i", *e) for e in entries)
        body, at = body + record, at + len(record)
    roots = struct.pack("<2i", table, at)
    index = head + roots + struct.pack(f"<{len(pointers)}i", *pointers) + body
    (folder / "Index.dat").write_bytes(index + struct.pack("<i", at + 4) + bytes(4))
    general = {"SLIDE_VERSION": "01.02", "SLIDE_ID": slide_id, "SLIDE_NAME": "made-up-name", "IMAGENUMBER_X": across,
               "IMAGENUMBER_Y": down, "OBJECTIVE_MAGNIFICATION": 40, "CameraImageDivisionsPerSide": 1,
               "SLIDE_CREATIONDATETIME": "01/02/2003 04:05:06"}
    hierarchical = {"HIER_COUNT": 1, "NONHIER_COUNT": 0, "INDEXFILE": "Index.dat", "HIER_0_NAME": "Slide zoom level",
                    "HIER_0_COUNT": len(pages)}
    groups = {"GENERAL": general, "HIERARCHICAL": hierarchical, "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"}}
    for level in range(len(pages)):
        hierarchical[f"HIER_0_VAL_{level}"] = f"ZoomLevel_{level}"
        hierarchical[f"HIER_0_VAL_{level}_SECTION"] = f"LAYER_0_LEVEL_{level}_SECTION"
        groups[f"LAYER_0_LEVEL_{level}_SECTION"] = {
            "OVERLAP_X": 0, "OVERLAP_Y": 0, "MICROMETER_PER_PIXEL_X": MPP * 2**level,
            "MICROMETER_PER_PIXEL_Y": MPP * 2**level, "IMAGE_FORMAT": "JPEG", "IMAGE_FILL_COLOR_BGR": 0xFFFFFF,
            "DIGITIZER_WIDTH": px, "DIGITIZER_HEIGHT": px, "IMAGE_CONCAT_FACTOR": min(level, 1)}
    (folder / "Slidedat.ini").write_text(ini(groups), newline="")
    path = FOLDER / "mirax.mrxs"
    path.write_bytes(jpeg(np.full((8, 8, 3), 255, np.uint8)))
    return path


def vms(picture):
    """Hamamatsu VMS: an INI file that names JPEGs with a restart marker a row, and a map of the whole."""
    folder = FOLDER / "vms"
    folder.mkdir()
    image = jpeg(picture, "4:2:2", restart_marker_rows=1)
    (folder / "image.jpg").write_bytes(image)
    (folder / "map.jpg").write_bytes(jpeg(reduced(picture, 4, False), "4:2:2", restart_marker_rows=1))
    (folder / "macro.jpg").write_bytes(jpeg(np.full((32, 96, 3), (0, 0, 255), np.uint8)))
    scan = len(image) - len(jpeg_segments(image)[1])
    markers = [i + 2 for i in range(scan, len(image) - 1) if image[i] == 0xFF and 0xD0 <= image[i + 1] <= 0xD7]
    assert len(markers) == picture.shape[0] // 8 - 1
    (folder / "slide.opt").write_bytes(b"".join(struct.pack("<q", at).ljust(40, b"\0") for at in [scan, *markers]))
    height, width = picture.shape[:2]
    path = folder / "slide.vms"
    path.write_text(ini({"Virtual Microscope Specimen": {
        "NoLayers": 1, "NoJpegColumns": 1, "NoJpegRows": 1, "ImageFile": "image.jpg", "MapFile": "map.jpg",
        "OptimisationFile": "slide.opt", "MacroImage": "macro.jpg", "SourceLens": 40, "Reference": "made-up-name",
        "PhysicalWidth": int(width * MPP * 1000), "PhysicalHeight": int(height * MPP * 1000)}}), newline="")
    return path


def vmu(picture):
    """Hamamatsu VMU: an INI file that names uncompressed pictures of 12 bits in 16, stored in columns."""
    column, folder = 32, FOLDER / "vmu"
    folder.mkdir()

    def ngr(name, picture):
        height, width = picture.shape[:2]
        head = struct.pack("<2s2x3i8xi", b"GN", width, height, column, 28)
        columns = [(picture[:, x:x + column].astype("<u2") << 4).tobytes() for x in range(0, width, column)]
        (folder / name).write_bytes(head + b"".join(columns))

    ngr("image.ngr", picture)
    ngr("map.ngr", reduced(picture, 4, False))
    (folder / "macro.jpg").write_bytes(jpeg(np.full((32, 96, 3), (0, 0, 255), np.uint8)))
    height, width = picture.shape[:2]
    path = folder / "slide.vmu"
    path.write_text(ini({"Uncompressed Virtual Microscope Specimen": {
        "NoLayers": 1, "ImageFile": "image.ngr", "MapFile": "map.ngr", "MapScale": 4, "MacroImage": "macro.jpg",
        "SourceLens": 40, "Reference": "made-up-name", "PixelWidth": width, "PixelHeight": height, "BitsPerPixel": 36,
        "PixelOrder": "RGB", "PhysicalWidth": int(width * MPP * 1000), "PhysicalHeight": int(height * MPP * 1000)}}), newline="")
    return path


def sakura(picture):
    """Sakura: an SQLite database; each colour of a tile is a grey JPEG of its own."""
    px, path = 128, FOLDER / "sakura.svslide"
    with sqlite3.connect(path) as db:
        db.executescript("""
            PRAGMA page_size = 1024;
            CREATE TABLE DataManagerSQLiteConfigXPO (TableName TEXT);
            INSERT INTO DataManagerSQLiteConfigXPO VALUES ('blobs');
            CREATE TABLE blobs (id TEXT, data BLOB);
            CREATE TABLE tile (TILEID TEXT, PYRAMIDLEVEL INTEGER, COLUMNINDEX INTEGER, ROWINDEX INTEGER, COLORINDEX INTEGER);
            CREATE TABLE SVSlideDataXPO (OID INTEGER, SlideId TEXT, Date TEXT, Creator TEXT, Description TEXT, Keywords TEXT,
                DiagnosisCode TEXT, m_labelScan INTEGER, m_overviewScan INTEGER);
            INSERT INTO SVSlideDataXPO VALUES (1, 'made-up-id', '01/02/2003', 'made-up-user', '', '', 'made-up-code', 1, 2);
            CREATE TABLE SVHRScanDataXPO (OID INTEGER, ParentSlide INTEGER, ScanId TEXT, Date TEXT, Name TEXT, Description TEXT,
                ResolutionMmPerPix REAL, NominalLensMagnification REAL, FocussingMethod TEXT, ThumbnailImage BLOB);
            CREATE TABLE SVScannedImageDataXPO (OID INTEGER, Image BLOB);
        """)
        db.execute("INSERT INTO SVHRScanDataXPO VALUES (1, 1, 'made-up-scan', '', '', '', ?, 40, '', NULL)", (MPP / 1000,))
        for oid, colour in ((1, (255, 0, 0)), (2, (0, 0, 255))):
            db.execute("INSERT INTO SVScannedImageDataXPO VALUES (?, ?)", (oid, jpeg(np.full((32, 48, 3), colour, np.uint8))))
        db.execute("INSERT INTO blobs VALUES ('++MagicBytes', 'SVGigaPixelImage')")
        db.execute("INSERT INTO blobs VALUES ('++VersionBytes', '4.0.0')")
        # Tile, width, height, bits, focal planes, colours, and what stands in every file.
        header = struct.pack("<7IH6I", px, picture.shape[1], picture.shape[0], 8, 1, 3, 1, 256, 1, 2, 3, 4, 5, 6)
        db.execute("INSERT INTO blobs VALUES ('Header', ?)", (header,))
        for factor in (1, 4):
            for col, row, square in cut(reduced(picture, factor, False), px):
                for colour in range(3):
                    name = f"T;{col * px * factor}|{row * px * factor};{factor};{colour};0"
                    out = io.BytesIO()
                    Image.fromarray(np.ascontiguousarray(square[..., colour])).save(out, "JPEG", quality=60)
                    db.execute("INSERT INTO blobs VALUES (?, ?)", (name, out.getvalue()))
                    at = (col * px * factor, row * px * factor)
                    db.execute("INSERT INTO tile VALUES (?, ?, ?, ?, ?)", (name, factor, *at, colour))
    return path


def czi(picture):
    """Zeiss CZI: segments; sub-blocks of BGR pixels, zstd, a level reduced by 2; a directory and an XML."""
    px = 128

    def segment(name, payload):
        padding = bytes(-len(payload) % 32)
        sizes = struct.pack("<2q", len(payload) + len(padding), len(payload))
        return name.encode().ljust(16, b"\0") + sizes + payload + padding

    def entry(col, row, factor, at, number):
        sides = (("X", col * px * factor, px * factor, px), ("Y", row * px * factor, px * factor, px), ("C", 0, 1, 1),
                 ("M", number, 1, 1))
        dimensions = b"".join(struct.pack("<4siifi", d.encode(), start, size, 0.0, stored) for d, start, size, stored in sides)
        return struct.pack("<2siqiibx4xi", b"DV", 3, at, 0, 6, 0 if factor == 1 else 2, len(sides)) + dimensions

    # 512 bytes of header payload are reserved; the positions in it are known at the end.
    body, directory, start = bytearray(), [], 32 + 512
    for factor in (1, 2):
        for col, row, square in cut(reduced(picture, factor, False), px):
            at = start + len(body)
            packed = b"\x03\x01\x00" + zstd_encode(np.ascontiguousarray(square[..., ::-1]).tobytes(), level=19)
            e = entry(col, row, factor, at, len(directory))
            directory.append(e)
            head = struct.pack("<iiq", 0, 0, len(packed)) + e
            body += segment("ZISRAWSUBBLOCK", head.ljust(256, b"\0") + packed)
    directory_at = start + len(body)
    body += segment("ZISRAWDIRECTORY", struct.pack("<i", len(directory)) + bytes(124) + b"".join(directory))
    metres = "".join(f'<Distance Id="{axis}"><Value>{MPP * 1e-6}</Value></Distance>' for axis in "XY")
    xml = (f'<?xml version="1.0"?><ImageDocument><Metadata><Information><Image><SizeX>{picture.shape[1]}</SizeX>'
           f'<SizeY>{picture.shape[0]}</SizeY><ObjectiveSettings><ObjectiveRef Id="Objective:1"/></ObjectiveSettings></Image>'
           '<Document><UserName>made-up-user</UserName></Document><Instrument><Objectives><Objective Id="Objective:1">'
           '<NominalMagnification>40</NominalMagnification></Objective></Objectives></Instrument></Information>'
           f'<Scaling><Items>{metres}</Items></Scaling></Metadata></ImageDocument>').encode()
    metadata_at = start + len(body)
    body += segment("ZISRAWMETADATA", struct.pack("<ii", len(xml), 0) + bytes(248) + xml)
    attachments_at = start + len(body)
    body += segment("ZISRAWATTDIR", struct.pack("<i", 0) + bytes(252))
    guid = bytes(range(16))
    header = struct.pack("<4i", 1, 0, 0, 0) + guid + guid + struct.pack("<iqqiq", 0, directory_at, metadata_at, 0, attachments_at)
    path = FOLDER / "zeiss.czi"
    path.write_bytes(segment("ZISRAWFILE", header.ljust(512, b"\0")) + bytes(body))
    return path


def described(path, purpose, lossless):
    """What openslide-python finds: a manifest entry."""
    levels = []
    with openslide.OpenSlide(path) as slide:
        for number, (width, height) in enumerate(slide.level_dimensions):
            pixels = np.asarray(slide.read_region((0, 0), number, (width, height)).convert("RGB"))
            spots = [(x, y) for y in range(height // 7, height, height // 3) for x in range(width // 5, width, width // 3)]
            levels.append({
                "width": width, "height": height,
                "mean_rgb": [round(float(v), 3) for v in pixels.reshape(-1, 3).mean(0)],
                "rgb_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                "pixels": [[x, y, *map(int, pixels[y, x])] for x, y in spots],
            })
        return {
            "file": str(path.relative_to(FOLDER)), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size, "purpose": purpose, "origin": f"scripts/make_openslide_testdata.py from {SOURCE}",
            "license": "CC0-1.0", "format": slide.properties["openslide.vendor"], "reader": "openslide", "openslide": True,
            "lossless": lossless, "mpp": float(slide.properties["openslide.mpp-x"]), "golden_from": ["openslide"],
            "level": levels,
        }


def main():
    picture = crop(tifffile.imread(TESTDATA / SOURCE, key=0), 640, 1380, 512, 512)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    entries = [
        described(mirax(picture), "emulated 3DHISTECH MIRAX: JPEG, two levels", False),
        described(vms(picture), "emulated Hamamatsu VMS: one JPEG with restart markers, and a map", False),
        described(vmu(crop(picture, 192, 192, 128, 128)), "emulated Hamamatsu VMU: uncompressed, and a map", True),
        described(sakura(picture), "emulated Sakura: SQLite, a grey JPEG a colour, two levels", False),
        described(czi(crop(picture, 128, 128, 256, 256)), "emulated Zeiss CZI: zstd, two levels", True),
    ]
    exact = hashlib.sha256(crop(picture, 128, 128, 256, 256).tobytes()).hexdigest()
    assert entries[4]["level"][0]["rgb_sha256"] == exact, "the CZI gives other pixels than went in"
    head = ("# Made by scripts/make_openslide_testdata.py; do not edit. As testdata/manifest.toml; values are OpenSlide's, and\n"
            "# rgb_sha256 is of its very pixels, JPEG too.\n")
    (FOLDER / "manifest.toml").write_text(manifest(entries, head))
    total = sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file())
    print(f"{total} bytes in {FOLDER.relative_to(pathlib.Path(TESTDATA).parent)}")


if __name__ == "__main__":
    main()
