#!/usr/bin/env python3
"""Makes the small slides in testdata/multi/ and their manifest: OME-TIFF, Philips TIFF and Hamamatsu NDPI.

The pixels are crops of testdata/CMU-1-Small-Region.svs (CC0), real tissue; names, dates and numbers in the metadata are
made up. Expected values are what OpenSlide reads where it opens the file, otherwise what tifffile reads; where both read a
level, they must agree.

    scripts/setup --dev
    .venv/bin/python scripts/make_multi_testdata.py
"""

import base64
import hashlib
import io
import pathlib
import struct
import tempfile

import numpy as np
import openslide
import tifffile
from PIL import Image

from make_testdata import (JPEG_TOLERANCE, TESTDATA, SOURCE, Jpeg, Lossless, blocks_of, crop, manifest, mean_rgb,
                           openslide_levels, reduced)

FOLDER = TESTDATA / "multi"
MAX_TOTAL_BYTES = 250_000


# --- tiled pages -----------------------------------------------------------------------------------------------------


def write_page(tiff, picture, coding, px, missing=(), how=None, stream_photometric=None, **more):
    """One tiled page; `stream_photometric` declares another photometric interpretation than the blocks have."""
    blocks, tables = [], None
    for number, block in enumerate(blocks_of(picture, px, "zero" if coding.lossless else "edge")):
        if number in missing:
            blocks.append(b"")
            continue
        data, tables = coding.encode(block)
        blocks.append(data)
    args = {"photometric": "rgb"} | coding.container()
    if stream_photometric:
        args = stream_photometric
    tiff.write(iter(blocks), shape=picture.shape, dtype=np.uint8, tile=(px, px), compression=coding.compression,
               predictor=coding.predictor, jpegtables=tables, metadata=None, software=False, **args, **(how or {}), **more)


# --- OME-TIFF --------------------------------------------------------------------------------------------------------

OME = ('<?xml version="1.0" encoding="UTF-8"?><!-- made up --><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
       'Creator="made-up" UUID="urn:uuid:00000000-0000-0000-0000-000000000000">{}</OME>')
INSTRUMENT = ('<Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="10.0"/>'
              '<Objective ID="Objective:1" NominalMagnification="40.0" SerialNumber="made-up"/></Instrument>')


def ome_image(number, name, shape, ifd, size="", settings=""):
    h, w = shape[:2]
    return (f'<Image ID="Image:{number}" Name="{name}"><AcquisitionDate>2001-02-03T04:05:06</AcquisitionDate>{settings}'
            f'<Pixels BigEndian="false" DimensionOrder="XYCZT" ID="Pixels:{number}" {size} SizeC="3" SizeT="1" SizeX="{w}" '
            f'SizeY="{h}" SizeZ="1" Type="uint8"><Channel ID="Channel:{number}:0" SamplesPerPixel="3"/>'
            f'<TiffData FirstC="0" FirstT="0" FirstZ="0" IFD="{ifd}" PlaneCount="1"/></Pixels></Image>')


def ome_files(source):
    level0 = crop(source, 640, 1380, 301, 223)
    tiny = crop(source, 700, 1900, 131, 117)
    rgb_jpeg = Jpeg("420", tables=False)

    def with_levels(path, level0, coding, px, factors, xml, first=(), **how):
        opened = {k: how.pop(k) for k in ("bigtiff", "byteorder") if k in how}
        with tifffile.TiffWriter(path, **opened) as tiff:
            description = xml.encode()
            for picture in first:
                write_page(tiff, picture, Lossless("lzw"), 64, how={"description": description})
                description = None
            write_page(tiff, level0, coding, px, how={"description": description, "subifds": len(factors)}, **how)
            for factor in factors:
                write_page(tiff, reduced(level0, factor, True), coding, px, how={"subfiletype": 1}, **how)

    path = FOLDER / "ome_bioformats_be.ome.tif"
    xml = OME.format(ome_image(0, "made-up-name", level0.shape, 0,
                               'PhysicalSizeX="0.25" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.2501" PhysicalSizeYUnit="µm"'))
    # Bio-Formats' JPEG: whole JFIF streams, YCbCr, under "RGB".
    with_levels(path, level0, rgb_jpeg, 128, (2, 4), xml, byteorder=">",
                stream_photometric={"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}})
    yield entry(path, "as QuPath and Bio-Formats write it: classic big-endian, SubIFDs, JFIF blocks (YCbCr) declared RGB",
                "ome-tiff", (0.25, 0.2501), [tifffile_page(path, 0, n, jfif=True) for n in (None, 0, 1)], False)

    path = FOLDER / "ome_label_first.ome.tif"
    flat = [np.full((48, 40, 3), (255, 0, 0), np.uint8), np.full((32, 96, 3), (0, 0, 255), np.uint8)]
    size = 'PhysicalSizeX="252.5" PhysicalSizeXUnit="nm" PhysicalSizeY="0.0002525" PhysicalSizeYUnit="mm"'
    xml = OME.format(INSTRUMENT + ome_image(0, "label image", flat[0].shape, 0) + ome_image(1, "Macro", flat[1].shape, 1)
                     + ome_image(2, "made-up &amp; name", tiny.shape, 2, size, '<ObjectiveSettings ID="Objective:1"/>'))
    with_levels(path, tiny, Lossless("lzw", True), 64, (2,), xml, first=flat, bigtiff=True)
    yield entry(path, "label and macro are the first images; sizes in nm and mm; BigTIFF, LZW with predictor", "ome-tiff",
                (0.2525, 0.2525), [tifffile_page(path, 2, n) for n in (None, 0)], True)

    path = FOLDER / "ome_deflate.ome.tif"
    xml = OME.format(ome_image(0, "made-up-name", tiny.shape, 0,
                               'PhysicalSizeX="0.5" PhysicalSizeY="0.5"'))
    with_levels(path, tiny, Lossless("deflate"), 64, (2,), xml)
    yield entry(path, "deflate, little-endian; sizes without unit are µm", "ome-tiff", (0.5, 0.5),
                [tifffile_page(path, 0, n) for n in (None, 0)], True)


def tifffile_page(path, page, sub, jfif=False):
    """(block width, RGB) of a page or its SubIFD by tifffile. With `jfif` the blocks are decoded as files of their own."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[page]
        page = page if sub is None else page.pages[sub]
        if not jfif:
            return page.tilewidth, page.asarray()
        out = np.zeros((-page.imagelength // page.tilelength * -page.tilelength,
                        -page.imagewidth // page.tilewidth * -page.tilewidth, 3), np.uint8)
        across = out.shape[1] // page.tilewidth
        for n, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts)):
            tiff.filehandle.seek(offset)
            y, x = n // across * page.tilelength, n % across * page.tilewidth
            out[y:y + page.tilelength, x:x + page.tilewidth] = Image.open(io.BytesIO(tiff.filehandle.read(count)))
        return page.tilewidth, out[:page.imagelength, :page.imagewidth]


# --- Philips ---------------------------------------------------------------------------------------------------------


def philips_xml(spacings, pictures):
    def attribute(name, value):
        return f'<Attribute Name="{name}" Group="0x0028" Element="0x0030" PMSVR="IString">{value}</Attribute>'

    def quoted(spacing):
        return " ".join(f"&quot;{s:.9f}&quot;" for s in spacing)

    levels = "".join(f'<DataObject ObjectType="PixelDataRepresentation">{attribute("DICOM_PIXEL_SPACING", quoted(s))}'
                     f'{attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", n)}</DataObject>' for n, s in enumerate(spacings))
    images = "".join(f'<DataObject ObjectType="DPScannedImage">{attribute("PIM_DP_IMAGE_TYPE", kind)}'
                     f'{attribute("PIM_DP_IMAGE_DATA", base64.b64encode(data).decode())}</DataObject>'
                     for kind, data in pictures)
    slide = (f'<DataObject ObjectType="DPScannedImage">{attribute("PIM_DP_IMAGE_TYPE", "WSI")}'
             f'{attribute("DICOM_PIXEL_SPACING", quoted(spacings[0]))}'
             f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{levels}</Array></Attribute></DataObject>')
    return ('<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
            f'{attribute("DICOM_ACQUISITION_DATETIME", "20010203040506")}'
            f'<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>{slide}{images}</Array></Attribute></DataObject>')


def padded(picture, px):
    return np.pad(picture, [(0, -picture.shape[0] % px), (0, -picture.shape[1] % px), (0, 0)], constant_values=255)


def philips_files(source):
    # An odd width, so that a level's size shows how OpenSlide rounds; real level 0 sizes are multiples of the block.
    level0 = crop(source, 640, 1380, 301, 223)
    flat = io.BytesIO()
    Image.new("RGB", (40, 48), (255, 0, 0)).save(flat, "JPEG")
    path = FOLDER / "philips_padded.tiff"
    factors = (1, 2, 4)
    xml = philips_xml([(0.0002269 * f, 0.000227 * f) for f in factors], [("LABELIMAGE", flat.getvalue())])
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for n, f in enumerate(factors):
            picture = level0 if f == 1 else padded(reduced(level0, f, True), 128)
            # Nothing of level 0 is missing that a lower level has.
            write_page(tiff, picture, Jpeg("420"), 128, missing={0: (2, 5), 1: (1,)}.get(n, ()), how={
                "description": xml.encode() if n == 0 else f"level={n} mag={40 >> n} quality=60",
                "subfiletype": 1 if n else 0, "extratags": [(305, "s", 0, "Philips DP v1.0", True)] if n == 0 else []})
        tiff.write(np.full((32, 96, 3), (0, 0, 255), np.uint8), photometric="rgb", compression="lzw", rowsperstrip=16,
                   description="Macro", metadata=None, software=False)
    yield entry(path, "levels filled up to whole blocks, true sizes by the XML's spacings; blocks without bytes; label in the "
                "XML, macro a page", "philips", (0.227, 0.2269), None, False, block_px=[128] * 3)


# --- NDPI ------------------------------------------------------------------------------------------------------------


def restart_jpeg(picture, subsampling, restart_mcus):
    """(stream, where the restart intervals begin in it)"""
    out = io.BytesIO()
    more = {"restart_marker_blocks": restart_mcus} if restart_mcus else {}
    Image.fromarray(picture).save(out, "JPEG", quality=45, subsampling=subsampling, **more)
    stream = out.getvalue()
    at = 2
    while stream[at + 1] != 0xDA:
        at += 2 + int.from_bytes(stream[at + 2:at + 4], "big")
    at += 2 + int.from_bytes(stream[at + 2:at + 4], "big")
    starts = [at] + [i + 2 for i in range(at, len(stream) - 1) if stream[i] == 0xFF and 0xD0 <= stream[i + 1] <= 0xD7]
    return stream, starts


def ndpi_page(picture, lens, subsampling="4:2:2", restart_mcus=0, table=True, high=False, z=0, reference=None):
    stream, starts = restart_jpeg(picture, subsampling, restart_mcus)
    h, w = picture.shape[:2]
    per_cm = 20000 * lens / 20 if lens > 0 else 156
    tags = [(256, "I", [w]), (257, "I", [h]), (258, "H", [8, 8, 8]), (259, "H", [7]), (262, "H", [6]),
            (271, "s", b"Hamamatsu\0"), (273, "I", [None]), (277, "H", [3]), (278, "I", [h]), (279, "I", [len(stream)]),
            (282, "r", [int(per_cm), 1]), (283, "r", [int(per_cm), 1]), (296, "H", [3]), (306, "s", b"2001:02:03 04:05:06\0"),
            (65420, "H", [1]), (65421, "f", [lens]), (65424, "i", [z]), (65442, "s", b"made-up\0"),
            (65449, "s", b"Created=2001/02/03\r\nNDP.S/N=made-up\r\nProduct=made-up\r\n\0")]
    if table and len(starts) > 1:
        tags.append((65426, "I", starts))
    if high:
        tags.append((65432, "I", [0] * len(starts)))
    if reference:
        tags.append((65427, "s", reference))
    return stream, sorted(tags)


def write_ndpi(path, pages, base=0):
    """Directories as Hamamatsu writes them; everything but the header from byte `base` on, over a hole."""
    kinds = {"H": (3, 2), "I": (4, 4), "s": (2, 1), "r": (5, 8), "f": (11, 4), "i": (9, 4)}
    body, directories = bytearray(), []
    start = base + 12
    for stream, tags in pages:
        strip = start + len(body)
        body += stream
        entries, halves = b"", b""
        for number, kind, values in tags:
            code, size = kinds[kind]
            values = [strip] if values == [None] else values
            if number == 273:
                data, count = struct.pack("<Q", values[0]), 1
            else:
                data = values if kind == "s" else struct.pack(f"<{len(values)}{'I' if kind == 'r' else kind}", *values)
                count = len(data) // size
                if len(data) > 4:
                    at = start + len(body)
                    body += data + b"\0" * (len(data) % 2)
                    data = struct.pack("<Q", at)
            data = data.ljust(8, b"\0")
            entries += struct.pack("<HHI", number, code, count) + data[:4]
            halves += data[4:]
        directories.append((start + len(body), len(tags)))
        body += struct.pack("<H", len(tags)) + entries + bytes(8) + halves
    for (at, count), (following, _) in zip(directories, directories[1:]):
        struct.pack_into("<Q", body, at - start + 2 + 12 * count, following)
    with open(path, "wb") as file:
        file.write(b"II*\0" + struct.pack("<Q", directories[0][0]))
        file.seek(start)
        file.write(body)


def ndpi_files(source):
    tall = crop(source, 640, 1380, 256, 1040)
    flat = [np.full((32, 96, 3), (255, 0, 0), np.uint8), np.full((16, 48, 3), (0, 0, 255), np.uint8)]
    pages = [
        ndpi_page(tall, 20.0, restart_mcus=8, high=True, reference=b"made-up\0"),
        ndpi_page(flat[1], 20.0, z=1500),
        ndpi_page(reduced(tall, 2, True), 10.0, restart_mcus=8),
        ndpi_page(reduced(tall, 4, True), 5.0),
        ndpi_page(flat[0], -1.0), ndpi_page(flat[1], -2.0),
    ]
    path = FOLDER / "ndpi_422.ndpi"
    write_ndpi(path, pages)
    yield entry(path, "4:2:2, half a row an interval, then a whole row, then no restart markers; another focal plane, macro, map",
                "ndpi", (0.5, 0.5), None, False, block_px=[128, 128, 64])
    over_4gb(pages, openslide_levels(path)[0])

    path = FOLDER / "ndpi_420_no_table.ndpi"
    level0 = crop(source, 640, 1380, 256, 320)
    pages = [ndpi_page(level0, 20.0, "4:2:0", 16, table=False), ndpi_page(reduced(level0, 2, True), 10.0, "4:2:0", 8, table=False)]
    write_ndpi(path, pages)
    whole = [np.asarray(Image.open(io.BytesIO(stream))) for stream, _ in pages]
    yield entry(path, "4:2:0, a row an interval, no table of intervals", "ndpi", (0.5, 0.5), [(256, whole[0]), (128, whole[1])], False)


def over_4gb(pages, expected):
    """OpenSlide and tifffile read the same pages behind a hole of 4 GB as paraffin's test lays them out."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "large.ndpi"
        write_ndpi(path, pages, base=1 << 32)
        got, _ = openslide_levels(path)
        print(f"        over 4 GB: OpenSlide differs by {max(np.abs(a.astype(int) - b).max() for a, b in zip(got, expected, strict=True))}")
        with tifffile.TiffFile(path) as tiff:
            print(f"        over 4 GB: tifffile: {[p.shape for p in tiff.pages]}")


# --- entries ---------------------------------------------------------------------------------------------------------


def entry(path, purpose, format_, mpp, levels, lossless, block_px=None):
    """A file's expected values; `levels` as (block width, RGB), or None where OpenSlide's count."""
    if levels is None:
        pictures, (x, y) = openslide_levels(path)
        assert abs(x - mpp[0]) < 1e-6 and abs(y - mpp[1]) < 1e-6, (path.name, x, y)
        # OpenSlide makes up levels below the smallest stored one of an NDPI.
        assert len(pictures) >= len(block_px)
        levels = list(zip(block_px, pictures))
        readers = ["openslide"]
    else:
        readers = ["tifffile"]
        try:
            pictures, _ = openslide_levels(path)
        except openslide.OpenSlideError as error:
            print(f"        OpenSlide: {error}")
        else:
            # It sees a generic TIFF's first page only.
            worst = [np.abs(a.astype(int) - b).max() for a, (_, b) in zip(pictures, levels) if a.shape == b.shape]
            print(f"        OpenSlide: {[p.shape for p in pictures]}, differences up to {worst}")
            if pictures[0].shape == levels[0][1].shape:
                assert np.abs(pictures[0].astype(int) - levels[0][1]).mean() <= (0 if lossless else JPEG_TOLERANCE), path.name
    blob = path.read_bytes()
    out = {"file": path.name, "sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob), "purpose": purpose,
           "origin": f"scripts/make_multi_testdata.py from {SOURCE}", "license": "CC0-1.0", "format": format_,
           "lossless": lossless, "mpp": mpp[0] if mpp else None, "mpp_y": mpp[1] if mpp else None, "golden_from": readers}
    out["level"] = []
    for px, picture in levels:
        h, w = picture.shape[:2]
        assert picture.std() > 10, (path.name, "a level without contrast")
        places = [(w // 3, h // 3), (w // 2, h - 1), (w - 1, h // 2), (w * 4 // 5, h * 3 // 4)]
        level = {"width": w, "height": h, "block_px": int(px), "mean_rgb": mean_rgb(picture),
                 "pixels": [[int(v) for v in (x, y, *picture[y, x])] for x, y in places]}
        if lossless:
            level["rgb_sha256"] = hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()
        out["level"].append(level)
    print(f"{len(blob):7} {path.name}  {purpose}")
    return out


HEADER = """\
# Made by scripts/make_multi_testdata.py; do not edit. What the slides in this folder are, and what a reader must find in
# them, by OpenSlide or tifffile (`golden_from`). Fields as in testdata/manifest.toml; `mpp` is horizontal, and
#   pixels      [x, y, r, g, b]: single pixels
"""


def main():
    FOLDER.mkdir(exist_ok=True)
    source = tifffile.imread(TESTDATA / SOURCE, key=0)
    entries = [*ome_files(source), *philips_files(source), *ndpi_files(source)]
    for stale in {p for p in FOLDER.iterdir() if p.is_file()} - {FOLDER / e["file"] for e in entries}:
        stale.unlink()
    total = sum(e["bytes"] for e in entries)
    assert total < MAX_TOTAL_BYTES, total
    listed = [{k: v for k, v in e.items() if k != "mpp_y"} for e in entries]
    (FOLDER / "manifest.toml").write_text(manifest(listed, HEADER))
    print(f"{total:7} in {len(entries)} files")


if __name__ == "__main__":
    main()
