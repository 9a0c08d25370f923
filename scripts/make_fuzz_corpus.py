#!/usr/bin/env python3
"""Makes the seeds in fuzz/corpus/<target>/ from the slides in testdata/: real structure, few bytes.

Slides are cut down before they become seeds: the blocks' bytes are most of a file and least of what a fuzzer should change,
so all but the first blocks of every level become absent. What a target's input looks like stands in its source file.

    .venv/bin/python scripts/make_fuzz_corpus.py
"""

import io
import pathlib
import shutil
import struct
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

import make_icc_testdata
from make_testdata import Jpeg

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTDATA, CORPUS = ROOT / "testdata", ROOT / "fuzz" / "corpus"

# The seeds are committed.
MAX_SEED_BYTES, MAX_TOTAL_BYTES = 12_000, 400_000

# Tags of a TIFF whose values are offsets of blocks, and those of their sizes.
OFFSETS, BYTE_COUNTS = (273, 324), (279, 325)


def put(target, name, content):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert len(content) <= MAX_SEED_BYTES, f"{path} has {len(content)} bytes"


# --- slides ----------------------------------------------------------------------------------------------------------


def slim_tiff(path, blocks=1, most_block_bytes=2500):
    """A copy of a TIFF with its directories as they are, the first blocks of each page, and no others."""
    source = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        big, order = tiff.is_bigtiff, tiff.byteorder
        pages = [(page.offset, {tag.code: (tag.offset, tag.dtype, tag.count, tag.valueoffset) for tag in page.tags})
                 for page in tiff.pages]
    size_of = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 18: 8}
    code_of = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
    word, entry = ("Q", 20) if big else ("I", 12)
    head = source[:16] if big else source[:8]
    out = bytearray(head)

    def values(tag):
        _, kind, count, at = tag
        return list(struct.unpack(f"{order}{count}{code_of[int(kind)]}", source[at:at + count * size_of[int(kind)]]))

    chain = 8 if big else 4
    for offset, tags in pages:
        # The old directory, whose values are put behind it anew.
        count_size = 8 if big else 2
        count = struct.unpack(order + ("Q" if big else "H"), source[offset:offset + count_size])[0]
        out += b"\0" * (len(out) % 2)
        place = len(out)
        out[chain:chain + struct.calcsize(word)] = struct.pack(order + word, place)
        out += source[offset:offset + count_size + count * entry] + b"\0" * struct.calcsize(word)
        chain = len(out) - struct.calcsize(word)
        kept = {}
        for codes_at, codes_n in zip(OFFSETS, BYTE_COUNTS):
            if codes_at in tags:
                offsets, counts = values(tags[codes_at]), values(tags[codes_n])
                for i, (o, n) in enumerate(zip(offsets, counts)):
                    if sum(map(bool, offsets[:i])) < blocks and 0 < n <= most_block_bytes:
                        offsets[i] = len(out)
                        out += source[o:o + n]
                    else:
                        offsets[i] = counts[i] = 0
                kept[codes_at], kept[codes_n] = offsets, counts
        for code, tag in tags.items():
            at, kind, n, value_at = tag
            at = place + (at - offset)
            total = n * size_of[int(kind)]
            inline = struct.calcsize(word)
            raw = struct.pack(f"{order}{n}{code_of[int(kind)]}", *kept[code]) if code in kept else source[value_at:value_at + total]
            field = at + (12 if big else 8)
            if total <= inline:
                out[field:field + total] = raw
            else:
                out[field:field + inline] = struct.pack(order + word, len(out))
                out += raw
    return bytes(out)


def slides():
    """Every container of testdata, slim. Fixtures in the folders beside generated/ belong to their own formats; those that
    are TIFF come along."""
    paths = sorted((TESTDATA / "generated").iterdir())
    for folder in sorted(p for p in TESTDATA.iterdir() if (p / "manifest.toml").is_file()):
        paths += sorted(p for p in folder.iterdir() if p.is_file() and p.suffix not in (".toml", ".ndpi"))
    for path in paths:
        if path.read_bytes()[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            continue
        try:
            seed = slim_tiff(path)
        except (KeyError, ValueError, tifffile.TiffFileError, struct.error) as e:
            print(f"{path.name} is left out: {e!r}")
            continue
        if len(seed) <= MAX_SEED_BYTES:
            put("tiff", path.name, seed)
        else:
            print(f"{path.name} is left out: {len(seed)} bytes")


def ndpis():
    for path in sorted((TESTDATA / "multi").glob("*.ndpi")):
        # The strip of the smallest level is the one that is kept: it is all that a level has.
        put("ndpi", path.name, slim_tiff(path, most_block_bytes=6000))


def dicoms():
    for path in sorted((TESTDATA / "dicom").rglob("*.dcm")):
        if path.stat().st_size <= MAX_SEED_BYTES:
            put("dicom", f"{path.parent.name}_{path.name}", path.read_bytes())


def metadata():
    """The vendors in the order of fuzz_targets/metadata.rs."""
    vendors = [("multi/ome_deflate.ome.tif", 0, 270), ("multi/philips_padded.tiff", 0, 270), ("placed/scn_areas.scn", 0, 270),
               ("placed/bif_overlap.bif", 0, 700), ("placed/bif_overlap.bif", 2, 700), ("placed/trestle.tif", 0, 270)]
    for number, (file, page, tag) in enumerate(vendors):
        with tifffile.TiffFile(TESTDATA / file) as tiff:
            text = tiff.pages[page].tags[tag].value
        put("metadata", f"{number}_{pathlib.Path(file).stem}", bytes([number]) + (text if isinstance(text, bytes) else text.encode()))


# --- blocks ----------------------------------------------------------------------------------------------------------


def tissue(px):
    """Real pixels, from the finest level of a lossless fixture."""
    level = tifffile.imread(TESTDATA / "generated" / "generic_none.tif", key=0)
    return np.ascontiguousarray(level[40:40 + px, 40:40 + px])


def jpegs():
    colours = {"grey": 0, "420": 1, "422": 1, "444": 1, "rgb": 2}
    for colour, number in colours.items():
        for tables in (True, False):
            picture = tissue(32)
            picture = picture[..., 1] if colour == "grey" else picture
            block, apart = Jpeg(colour, tables=tables).encode(np.ascontiguousarray(picture))
            apart = apart or b""
            for scale in ((0, 3) if tables else (1,)):
                front = struct.pack("<BHHH", number | scale << 2, 32, 32, len(apart))
                put("jpeg", f"{colour}_{'tables' if tables else 'whole'}_{scale}", front + apart + block)
    out = io.BytesIO()
    Image.fromarray(tissue(32)).save(out, "JPEG", quality=60, progressive=True)
    put("jpeg", "progressive", struct.pack("<BHHH", 1, 32, 32, 0) + out.getvalue())


def lossless():
    picture = tissue(16)
    packers = {"none": bytes, "lzw": imagecodecs.lzw_encode, "deflate": lambda b: zlib.compress(b, 9),
               "zstd": imagecodecs.zstd_encode}
    for number, (name, pack) in enumerate(packers.items()):
        for bits in (8, 16):
            for channels in (1, 3, 4):
                pixels = np.concatenate([picture, picture[..., :1]], -1)[..., :channels]
                raw = pixels.astype("<u2").tobytes() if bits == 16 else np.ascontiguousarray(pixels).tobytes()
                how = (bits == 16) | (channels - 1) << 1 | (2 << 4 if channels == 4 else 0) | (64 if number % 2 else 0)
                put("lossless", f"{name}_{bits}_{channels}", bytes([number, how, 15, 15]) + bytes(pack(raw)))


def other_blocks():
    picture = tissue(32)
    for scale in range(4):
        for name, number, how in (("rgb", 2, {"mct": True}), ("ycbcr", 1, {"mct": False})):
            stream = imagecodecs.jpeg2k_encode(picture, codecformat="j2k", level=30, resolutions=3, **how)
            put("blocks", f"jpeg2000_{name}_{scale}", struct.pack("<BHH", number << 1 | scale << 3, 32, 32) + stream)
    for name, how in (("lossy", {"level": 60}), ("lossless", {"lossless": True})):
        stream = imagecodecs.webp_encode(picture, **how)
        put("blocks", f"webp_{name}", struct.pack("<BHH", 1, 32, 32) + stream)


def jpegls_blocks():
    for path in sorted((TESTDATA / "dicom").glob("jpegls_*/*.dcm")):
        content = path.read_bytes()
        begin = content.index(b"\xff\xd8\xff\xf7")
        stream = content[begin:content.index(b"\xff\xd9", begin) + 2]
        put("blocks", path.parent.name, struct.pack("<BHH", 0x20 | (0 if "grey" in path.parent.name else 2), 32, 32) + stream)


def descriptions():
    for path in sorted((TESTDATA / "generated").glob("aperio_*.svs")):
        with tifffile.TiffFile(path) as tiff:
            text = tiff.pages[0].tags["ImageDescription"].value
        put("aperio", path.stem, text.removeprefix("Aperio").encode())
    with tifffile.TiffFile(TESTDATA / "CMU-1-Small-Region.svs") as tiff:
        for i, page in enumerate(tiff.pages):
            if "ImageDescription" in page.tags:
                put("aperio", f"real_{i}", page.tags["ImageDescription"].value.removeprefix("Aperio").encode())


def profiles():
    for name, profile in make_icc_testdata.PROFILES.items():
        put("icc", name, profile())
    put("icc", "srgb", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def main():
    for target in ("tiff", "ndpi", "dicom", "metadata", "blocks", "jpeg", "lossless", "aperio", "icc"):
        shutil.rmtree(CORPUS / target, ignore_errors=True)
    slides()
    ndpis()
    dicoms()
    metadata()
    jpegs()
    other_blocks()
    jpegls_blocks()
    lossless()
    descriptions()
    profiles()
    total = sum(p.stat().st_size for p in CORPUS.rglob("*") if p.is_file())
    count = sum(p.is_file() for p in CORPUS.rglob("*"))
    print(f"{count} seeds, {total} bytes")
    assert total <= MAX_TOTAL_BYTES


if __name__ == "__main__":
    main()
