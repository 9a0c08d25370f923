#!/usr/bin/env python3
"""Makes the small slides in testdata/generated/ and testdata/manifest.toml.

The pixels are crops of testdata/CMU-1-Small-Region.svs (CC0), so they are real tissue; the containers are the cases
that the real slide lacks. Blocks are coded here, one by one, and tifffile writes the containers around them. The golden
values come from tifffile and imagecodecs decoding the finished files; OpenSlide must agree wherever it reads the file.

    scripts/setup --dev
    .venv/bin/python scripts/make_testdata.py            # make everything anew
    .venv/bin/python scripts/make_testdata.py --check    # are the files there those of the manifest?
"""

import argparse
import hashlib
import io
import pathlib
import sys
import tomllib
import zlib
from dataclasses import dataclass, field

import imagecodecs
import numpy as np
import openslide
import tifffile
from PIL import Image

TESTDATA = pathlib.Path(__file__).resolve().parent.parent / "testdata"
SOURCE = "CMU-1-Small-Region.svs"
SOURCE_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"

# The files are committed: small ones only.
MAX_FILE_BYTES, MAX_TOTAL_BYTES = 120_000, 1_200_000

# Two JPEG decoders may round differently and upsample chroma differently, by this mean absolute difference at most.
JPEG_TOLERANCE = 1.0


# --- pictures --------------------------------------------------------------------------------------------------------


def crop(source, x, y, width, height):
    return np.ascontiguousarray(source[y:y + height, x:x + width])


def reduced(picture, factor, round_up):
    """A lower level: the mean over factor x factor pixels; where the size is no multiple, cut (Aperio) or filled up."""
    h, w = picture.shape[:2]
    if round_up:
        edge = [(0, -h % factor), (0, -w % factor)] + [(0, 0)] * (picture.ndim - 2)
        picture = np.pad(picture, edge, mode="edge")
    h, w = picture.shape[0] // factor, picture.shape[1] // factor
    sums = picture[:h * factor, :w * factor].astype(np.uint32)
    sums = sums.reshape(h, factor, w, factor, *picture.shape[2:]).sum((1, 3))
    return ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)


# --- blocks ----------------------------------------------------------------------------------------------------------


def jpeg_segments(stream):
    """The marker segments of a JPEG stream up to the scan, as (marker, payload), and the rest: scan and end."""
    assert stream[:2] == b"\xff\xd8"
    segments, at = [], 2
    while True:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2:at + 4], "big")
        segments.append((marker, stream[at + 4:at + 2 + length]))
        at += 2 + length
        if marker == SOS:
            return segments, stream[at:]


def jpeg_join(segments, rest=b"\xff\xd9"):
    out = bytearray(b"\xff\xd8")
    for marker, payload in segments:
        out += bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload
    return bytes(out + rest)


SOF0, DHT, SOS, DQT, APP0, APP14 = 0xC0, 0xC4, 0xDA, 0xDB, 0xE0, 0xEE


@dataclass
class Jpeg:
    """JPEG blocks.

    colour: '420', '422', '444' (YCbCr), 'rgb' (not transformed) or 'grey'. tables: apart in tag 347, the blocks
    abbreviated, as scanners do; or whole streams with JFIF header, as many converters do.
    """

    colour: str
    tables: bool = True
    quality: int = 60

    compression = tifffile.COMPRESSION.JPEG
    predictor = None
    lossless = False

    def encode(self, block):
        """(block, tables or None)"""
        out = io.BytesIO()
        how = {"rgb": {"keep_rgb": True}, "grey": {}}.get(self.colour) or {
            "subsampling": {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}.get(self.colour, "4:4:4")}
        Image.fromarray(block).save(out, "JPEG", quality=self.quality, **how)
        segments, rest = jpeg_segments(out.getvalue())
        if self.colour == "rgb":
            segments = as_aperio_rgb(segments)
        if not self.tables:
            return jpeg_join(segments, rest), None
        in_tables = [s for s in segments if s[0] in (DQT, DHT)]
        in_block = [s for s in segments if s[0] not in (DQT, DHT, APP0)]
        return jpeg_join(in_block, rest), jpeg_join(in_tables)

    def container(self):
        """How the TIFF declares it."""
        if self.colour == "grey":
            return {"photometric": "minisblack"}
        if self.colour == "rgb":
            # tifffile declares YCbCr unless told; the subsampling tag (2, 2) that it writes is as wrong as the real slide's.
            return {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}}
        return {"photometric": "ycbcr", "subsampling": {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[self.colour]}


def as_aperio_rgb(segments):
    """Without Adobe marker and with component ids 0, 1, 2: nothing in the stream says that it is RGB, only the TIFF."""
    ids = bytes.maketrans(b"RGB", b"\x00\x01\x02")
    out = []
    for marker, payload in segments:
        if marker == SOF0:
            head, components = payload[:6], payload[6:]
            payload = head + b"".join(components[i:i + 1].translate(ids) + components[i + 1:i + 3] for i in (0, 3, 6))
        elif marker == SOS:
            payload = payload[:1] + b"".join(payload[i:i + 1].translate(ids) + payload[i + 1:i + 2] for i in (1, 3, 5)) + payload[7:]
        if marker not in (APP0, APP14):
            out.append((marker, payload))
    return out


@dataclass
class Lossless:
    """Blocks that decode to what was coded: 'none', 'lzw', 'deflate' or 'zstd', with or without predictor 2."""

    coding: str
    predict: bool = False

    lossless = True

    @property
    def compression(self):
        return {"none": tifffile.COMPRESSION.NONE, "lzw": tifffile.COMPRESSION.LZW,
                "deflate": tifffile.COMPRESSION.ADOBE_DEFLATE, "zstd": tifffile.COMPRESSION.ZSTD}[self.coding]

    @property
    def predictor(self):
        return tifffile.PREDICTOR.HORIZONTAL if self.predict else None

    def encode(self, block):
        if self.predict:
            block = np.diff(block, axis=1, prepend=np.zeros_like(block[:, :1]))
        raw = block.tobytes()
        coders = {"none": bytes, "lzw": imagecodecs.lzw_encode, "deflate": lambda b: zlib.compress(b, 9),
                  "zstd": lambda b: imagecodecs.zstd_encode(b, level=19)}
        return bytes(coders[self.coding](raw)), None

    def container(self):
        return {}


def blocks_of(picture, px, pad):
    """The blocks in row order, those at the right and the bottom filled up to full size."""
    edge = [(0, -picture.shape[0] % px), (0, -picture.shape[1] % px)] + [(0, 0)] * (picture.ndim - 2)
    filled = np.pad(picture, edge, mode=pad) if pad == "edge" else np.pad(picture, edge, constant_values=0)
    for y in range(0, filled.shape[0], px):
        for x in range(0, filled.shape[1], px):
            yield np.ascontiguousarray(filled[y:y + px, x:x + px])


# --- slides ----------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    file: str
    purpose: str
    level0: np.ndarray
    coding: object
    block_px: int
    factors: tuple = ()                    # of the lower levels, to level 0
    bigtiff: bool = False
    byteorder: str = "<"
    aperio: dict | None = None             # fields of the Aperio description; None: a generic TIFF
    resolution_cm: float | None = None     # pixels per centimetre in the resolution tags
    missing: dict = field(default_factory=dict)  # {level: blocks with offset 0 and byte count 0}
    associated: bool = False               # thumbnail, label and macro as in Aperio files
    mpp: float | None = None               # what a reader should find

    @property
    def openslide(self):
        """Does OpenSlide 4.0.1 open it? Of big-endian files it reads BigTIFF only ("tifflike: Cannot read dircount")."""
        return self.byteorder == "<" or self.bigtiff

    @property
    def path(self):
        return TESTDATA / "generated" / self.file

    def levels(self):
        aperio = self.aperio is not None
        return [self.level0] + [reduced(self.level0, f, round_up=not aperio) for f in self.factors]

    def description(self, level):
        if self.aperio is None:
            return None
        h, w = self.level0.shape[:2]
        lh, lw = level.shape[:2]
        what = f"{w}x{h} [0,0 {w}x{h}] ({self.block_px}x{self.block_px})"
        if level is not self.level0:
            what += f" -> {lw}x{lh}"
        kind = "JPEG/RGB Q=60" if isinstance(self.coding, Jpeg) and self.coding.colour == "rgb" else "JPEG/YCC Q=60"
        fields = "|".join(f"{k} = {v}" for k, v in self.aperio.items() if not k.startswith("+"))
        # A '+' stands for a second entry of the same name.
        fields += "".join(f"|{k[1:]} = {v}" for k, v in self.aperio.items() if k.startswith("+"))
        return f"Aperio Image Library v11.2.1 \r\n{what} {kind}|{fields}"

    def write(self):
        with tifffile.TiffWriter(self.path, bigtiff=self.bigtiff, byteorder=self.byteorder) as tiff:
            for number, level in enumerate(self.levels()):
                self.write_level(tiff, number, level)
                if number == 0 and self.associated:
                    self.write_strips(tiff, reduced(self.level0, 8, False), 0, f"{level.shape[1]}x{level.shape[0]} -> thumbnail - |")
            if self.associated:
                # Pictures that must never be read: a label and a macro in flat, unmistakable colours.
                self.write_strips(tiff, np.full((48, 40, 3), (255, 0, 0), np.uint8), 1, "label 40x48")
                self.write_strips(tiff, np.full((32, 96, 3), (0, 0, 255), np.uint8), 9, "macro 96x32")

    def write_level(self, tiff, number, level):
        blocks, tables = [], None
        for block in blocks_of(level, self.block_px, "zero" if self.coding.lossless else "edge"):
            if len(blocks) in self.missing.get(number, ()):
                blocks.append(b"")
                continue
            data, block_tables = self.coding.encode(block)
            assert tables in (None, block_tables), "every block of a level must use the same tables"
            blocks.append(data)
            tables = block_tables
        how = {"photometric": "rgb" if level.ndim == 3 else "minisblack"} | self.coding.container()
        if self.resolution_cm:
            # Exact in the tag's rational number; lower levels state their own, coarser resolution.
            per_cm = self.resolution_cm * level.shape[1] / self.level0.shape[1]
            how |= {"resolution": (per_cm, per_cm), "resolutionunit": "centimeter"}
        tiff.write(
            iter(blocks), shape=level.shape, dtype=np.uint8, tile=(self.block_px,) * 2,
            compression=self.coding.compression, predictor=self.coding.predictor, jpegtables=tables,
            description=self.description(level), metadata=None, software=False,
            # Aperio leaves its levels unmarked; OpenSlide takes a generic TIFF's levels only when they are marked.
            subfiletype=1 if number and self.aperio is None else 0, **how,
        )

    def write_strips(self, tiff, picture, subfiletype, text):
        tiff.write(picture, photometric="rgb", compression="lzw", rowsperstrip=16, subfiletype=subfiletype,
                   description=f"Aperio Image Library v11.2.1 \r\n{text}", metadata=None, software=False)


def cases(source):
    # Tissue beside background; odd sizes, so that no level is a multiple of its blocks nor an exact reduction.
    large = crop(source, 640, 1380, 601, 443)
    small = crop(source, 700, 1900, 179, 149)
    tiny = crop(source, 700, 1900, 131, 117)
    grey = np.ascontiguousarray((large[:331, :349].astype(np.uint32).sum(2) // 3).astype(np.uint8))
    fields = {"AppMag": 40, "StripeWidth": 992, "ScanScope ID": "SS0000", "Filename": "made-up-name",
              "Date": "01/02/03", "Time": "04:05:06", "User": "made-up-user", "MPP": "0.2525", "Left": "10.5",
              "Top": "20.25"}
    lossless = {"level0": small, "block_px": 64, "factors": (2, 4), "resolution_cm": 20000, "mpp": 0.5}

    def aperio(file, purpose, coding, block_px, **more):
        more = {"level0": large, "factors": (4,), "aperio": fields, "mpp": 0.2525} | more
        return Case(f"aperio_{file}.svs", purpose, coding=coding, block_px=block_px, **more)

    def generic(file, purpose, coding, **more):
        return Case(f"generic_{file}.tif", purpose, coding=coding, **(lossless | more))

    return [
        aperio("ycc420_256", "YCbCr 4:2:0, tables in tag 347, 256 px blocks; thumbnail, label and macro pages",
               Jpeg("420"), 256, associated=True),
        aperio("ycc422_240", "YCbCr 4:2:2, tables in tag 347, 240 px blocks", Jpeg("422"), 240),
        aperio("ycc444_256", "YCbCr 4:4:4, whole JFIF streams without tag 347", Jpeg("444", tables=False), 256),
        aperio("rgb_240", "RGB JPEG without Adobe marker, component ids 0 1 2, tables in tag 347: only the TIFF says RGB",
               Jpeg("rgb"), 240, level0=crop(source, 640, 1380, 391, 283)),
        aperio("big_endian", "an Aperio BigTIFF in big-endian byte order", Jpeg("420"), 256, level0=tiny, factors=(2,),
               bigtiff=True, byteorder=">"),
        aperio("comma", "MPP with a decimal comma", Jpeg("420"), 240, level0=tiny, factors=(),
               aperio=fields | {"MPP": "0,2525"}),
        aperio("two_mpp", "MPP stated twice: the last one counts", Jpeg("420"), 240, level0=tiny, factors=(),
               aperio=fields | {"MPP": "0.4990", "+MPP": "0.2525"}),
        aperio("no_mpp", "no MPP, only the objective power", Jpeg("420"), 240, level0=tiny, factors=(),
               aperio={k: v for k, v in fields.items() if k != "MPP"}, mpp=None),
        aperio("sparse", "blocks never scanned: offset 0, byte count 0, read as white", Jpeg("420"), 128, level0=large,
               factors=(), missing={0: (0, 1, 5, 7, 19)}),
        # Whole blocks of the lower level are missing where level 0 misses all below them: a lower block over a partly
        # missing area is distrusted by OpenSlide, which computes it from level 0 instead.
        aperio("sparse_levels", "blocks never scanned on both levels: the right column, read as white", Jpeg("420"), 128,
               level0=large, missing={0: (4, 9, 14, 19), 1: (1,)}),
        generic("none", "uncompressed, classic, little-endian", Lossless("none"), level0=tiny),
        generic("lzw_be", "LZW, classic, big-endian", Lossless("lzw"), level0=tiny, byteorder=">"),
        generic("lzw_pred_big", "LZW with predictor 2, BigTIFF, little-endian", Lossless("lzw", True), bigtiff=True),
        generic("deflate_pred_be", "deflate (8) with predictor 2, classic, big-endian", Lossless("deflate", True),
                byteorder=">"),
        generic("deflate_big_be", "deflate (8), BigTIFF, big-endian", Lossless("deflate"), bigtiff=True, byteorder=">"),
        generic("zstd_pred_big", "zstd (50000) with predictor 2, BigTIFF, little-endian", Lossless("zstd", True),
                bigtiff=True),
        generic("zstd", "zstd (50000), classic, little-endian", Lossless("zstd"), level0=tiny),
        generic("jpeg_big_be", "YCbCr JPEG 4:2:0, tables in tag 347, BigTIFF, big-endian", Jpeg("420"), level0=large,
                block_px=256, bigtiff=True, byteorder=">"),
        generic("jpeg_grey", "grey JPEG, one sample a pixel", Jpeg("grey"), level0=grey, block_px=128),
        generic("grey_deflate", "one sample a pixel, deflate (8)", Lossless("deflate", True), level0=grey[:180, :200]),
        generic("sparse", "blocks never written: offset 0, byte count 0, read as white", Lossless("deflate", True),
                missing={0: (0, 1, 4, 8), 1: (1,), 2: (0,)}),
        generic("no_mpp", "neither resolution nor unit: no mpp at all", Lossless("deflate", True), level0=tiny,
                factors=(2,), resolution_cm=None, mpp=None),
    ]


# --- golden values ---------------------------------------------------------------------------------------------------


def tifffile_levels(path):
    """(tiled page, RGB) of each level by tifffile; blocks that are missing are white."""
    with tifffile.TiffFile(path) as tiff:
        out = []
        for page in tiff.pages:
            if not page.is_tiled:
                continue
            page.nodata = 255
            picture = page.asarray()
            out.append((page, np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture))
        return out


def openslide_levels(path):
    """RGB of each level by OpenSlide, on white."""
    with openslide.OpenSlide(path) as slide:
        out = []
        for level, size in enumerate(slide.level_dimensions):
            picture = slide.read_region((0, 0), level, size)
            white = Image.new("RGB", size, (255, 255, 255))
            white.paste(picture, mask=picture.getchannel("A"))
            out.append(np.asarray(white))
        mpp = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        return out, [float(v) if v else None for v in mpp]


def mean_rgb(picture):
    return [round(float(v), 3) for v in picture.reshape(-1, 3).mean(0)]


def entry(path, purpose, origin, mpp, lossless, opens):
    """A file's golden values. Fails where tifffile and OpenSlide disagree."""
    levels = tifffile_levels(path)
    readers = ["tifffile"]
    try:
        other, other_mpp = openslide_levels(path)
    except openslide.OpenSlideError as error:
        assert not opens, f"{path.name}: OpenSlide was expected to read it: {error}"
    else:
        assert opens, f"{path.name}: OpenSlide was not expected to read it"
        readers.append("openslide")
        assert len(other) == len(levels), f"{path.name}: {len(other)} levels in OpenSlide, {len(levels)} in tifffile"
        for (_, a), b in zip(levels, other):
            assert a.shape == b.shape, (path.name, a.shape, b.shape)
            difference = np.abs(a.astype(int) - b)
            assert difference.max() == 0 if lossless else difference.mean() <= JPEG_TOLERANCE, (path.name, difference.mean())
        for value in other_mpp:
            assert (value is None) == (mpp is None) and (mpp is None or abs(value - mpp) < 1e-6), (path.name, other_mpp)
    blob = path.read_bytes()
    out = {
        "file": str(path.relative_to(TESTDATA)), "sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob),
        "purpose": purpose, "origin": origin, "license": "CC0-1.0",
        "format": "aperio" if path.suffix == ".svs" else "generic-tiff",
        "openslide": opens, "lossless": lossless, "mpp": mpp, "golden_from": readers,
    }
    out["level"] = [
        {"width": p.imagewidth, "height": p.imagelength, "block_px": p.tilewidth, "mean_rgb": mean_rgb(a)}
        | ({"rgb_sha256": hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()} if lossless else {})
        for p, a in levels
    ]
    return out


def toml_value(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        assert not set(value) & set('"\\\n'), value
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)


HEADER = """\
# Made by scripts/make_testdata.py; do not edit. What the slides in this folder are, and what a reader must find in them.
# Each value is what tifffile (with imagecodecs) decodes, and OpenSlide agrees where `openslide` is true: exactly for
# `lossless` files, within a mean absolute difference of 1 for JPEG.
#   mpp         µm per pixel at level 0, as stated in the file; absent where the file states none
#   mean_rgb    mean of the level, missing blocks white, grey repeated three times
#   rgb_sha256  of the level's raw RGB bytes, row by row (lossless files only)
"""


def manifest(entries, header=HEADER):
    """The text of a manifest.toml."""
    lines = [header]
    for e in entries:
        lines.append("[[file]]")
        lines += [f"{k} = {toml_value(v)}" for k, v in e.items() if k != "level" and v is not None]
        for level in e["level"]:
            lines += ["", "[[file.level]]"] + [f"{k} = {toml_value(v)}" for k, v in level.items()]
        lines.append("")
    return "\n".join(lines)


ORIGINAL = "OpenSlide test data, CMU-1-Small-Region (openslide.org); in the PyPI source distribution of wsic 0.9.0"
DERIVED = f"scripts/make_testdata.py from {SOURCE}"


def source_entry():
    return entry(TESTDATA / SOURCE, "a real Aperio slide: H&E skin, RGB JPEG without Adobe marker, 240 px blocks",
                 ORIGINAL, 0.499, False, True)


def make():
    digest = hashlib.sha256((TESTDATA / SOURCE).read_bytes()).hexdigest()
    if digest != SOURCE_SHA256:
        sys.exit(f"not the expected source slide: sha256 {digest}: {TESTDATA / SOURCE}")
    everything = cases(tifffile.imread(TESTDATA / SOURCE, key=0))
    folder = TESTDATA / "generated"
    folder.mkdir(exist_ok=True)
    for stale in {p for p in folder.iterdir() if p.is_file()} - {c.path for c in everything}:
        stale.unlink()
    entries = [source_entry()]
    for case in everything:
        case.write()
        e = entry(case.path, case.purpose, DERIVED, case.mpp, case.coding.lossless, case.openslide)
        # A check of this script itself: what was put in comes out.
        for number, (want, (_, got)) in enumerate(zip(case.levels(), tifffile_levels(case.path), strict=True)):
            if number not in case.missing:
                want = np.repeat(want[..., None], 3, 2) if want.ndim == 2 else want
                difference = np.abs(want.astype(int) - got).mean()
                assert difference == 0 if case.coding.lossless else difference < 8, (case.file, number, difference)
        assert e["bytes"] < MAX_FILE_BYTES, f"{case.file} has {e['bytes']} bytes"
        entries.append(e)
        print(f"{e['bytes']:7} {case.file}  {case.purpose}")
    total = sum(e["bytes"] for e in entries[1:])
    assert total < MAX_TOTAL_BYTES, total
    (TESTDATA / "manifest.toml").write_text(manifest(entries))
    print(f"{total:7} in {len(entries) - 1} files")


def check():
    """The committed files against the manifest: their bytes, and what today's tools read from them."""
    listed = tomllib.loads((TESTDATA / "manifest.toml").read_text())["file"]
    there = {str(p.relative_to(TESTDATA)) for p in (TESTDATA / "generated").iterdir() if p.is_file()} | {SOURCE}
    assert there == {e["file"] for e in listed}, "testdata/generated and the manifest list different files"
    for e in listed:
        now = entry(TESTDATA / e["file"], e["purpose"], e["origin"], e.get("mpp"), e["lossless"], e["openslide"])
        now = {k: v for k, v in now.items() if v is not None}
        assert now == e, f"{e['file']} is not what the manifest says"
    print(f"{len(listed)} files are as the manifest says")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; compare the files with the manifest")
    check() if parser.parse_args().check else make()


if __name__ == "__main__":
    main()
