#!/usr/bin/env python3
"""Makes testdata/codings/: JPEG2000 and WebP blocks, stripped pages, SubIFDs, flat images.

Pixels are crops of testdata/CMU-1-Small-Region.svs (CC0). Golden values are what tifffile, imagecodecs and Pillow decode;
OpenSlide must agree wherever it reads the file.

    scripts/setup --dev
    .venv/bin/python scripts/make_codings_testdata.py
"""

import hashlib
import io

import imagecodecs
import numpy as np
import openslide
import tifffile
from PIL import Image

from make_testdata import DERIVED, SOURCE, TESTDATA, blocks_of, crop, manifest, reduced

FOLDER = TESTDATA / "codings"
MAX_TOTAL_BYTES = 240_000
APERIO = "Aperio Image Library v11.2.1 \r\n{w}x{h} [0,0 {w}x{h}] (128x128) J2K/{kind} Q=30|AppMag = 20|MPP = 0.4990"


# --- JPEG2000 --------------------------------------------------------------------------------------------------------


def j2k(block, **how):
    return imagecodecs.jpeg2k_encode(block, codecformat="J2K", **({"level": 36, "resolutions": 5} | how))


def to_ycbcr(block):
    r, g, b = (block[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128], -1).round().clip(0, 255).astype(np.uint8)


def from_ycbcr(planes):
    y, cb, cr = (planes[..., i].astype(float) for i in range(3))
    rgb = np.stack([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], -1)
    return rgb.round().clip(0, 255).astype(np.uint8)


def j2k_segments(stream):
    """The main header's segments as {marker: payload}, and the bytes between SOD and EOC of the only tile-part."""
    segments, at = {}, 2
    while stream[at:at + 2] != b"\xff\x90":
        length = int.from_bytes(stream[at + 2:at + 4], "big")
        segments[stream[at + 1]] = stream[at + 4:at + 2 + length]
        at += 2 + length
    start = stream.index(b"\xff\x93", at) + 2
    assert stream.endswith(b"\xff\xd9")
    return segments, stream[start:-2]


def planes_422(block):
    ycc = to_ycbcr(block)
    halves = [((ycc[:, 0::2, c].astype(np.uint16) + ycc[:, 1::2, c] + 1) // 2).astype(np.uint8) for c in (1, 2)]
    return [j2k(np.ascontiguousarray(p), reversible=True, resolutions=3) for p in (ycc[..., 0], *halves)]


def j2k_422(block):
    """Chroma at half the width, as Aperio's own 33003: three grey codestreams, merged component by component (CPRL)."""
    parts = [j2k_segments(p) for p in planes_422(block)]
    (first, _), size = parts[0], block.shape[0].to_bytes(4, "big")
    assert all(p[0][0x52] == first[0x52] and p[0][0x5C] == first[0x5C] for p in parts)
    siz = b"\0\0" + size * 2 + bytes(8) + size * 2 + bytes(8) + b"\0\x03\x07\x01\x01\x07\x02\x01\x07\x02\x01"
    cod = bytearray(first[0x52])
    cod[1] = 4
    body = b"".join(p[1] for p in parts)
    segment = lambda marker, data: bytes((0xFF, marker)) + (len(data) + 2).to_bytes(2, "big") + data  # noqa: E731
    head = b"\xff\x4f" + segment(0x51, siz) + segment(0x52, bytes(cod)) + segment(0x5C, first[0x5C])
    return head + segment(0x90, b"\0\0" + (len(body) + 14).to_bytes(4, "big") + b"\0\x01") + b"\xff\x93" + body + b"\xff\xd9"


# --- files -----------------------------------------------------------------------------------------------------------


def tiled(name, levels, encode, compression, px=128, aperio=None, **how):
    with tifffile.TiffWriter(FOLDER / name) as tiff:
        for number, level in enumerate(levels):
            blocks = [encode(b) for b in blocks_of(level, px, "edge")]
            h, w = levels[0].shape[:2]
            if aperio:
                text = APERIO.format(w=w, h=h, kind=aperio)
            else:
                text = None
                how["resolution"], how["resolutionunit"] = (20040.0 * level.shape[1] / w,) * 2, "centimeter"
            tiff.write(iter(blocks), shape=level.shape, dtype=np.uint8, tile=(px, px), compression=compression,
                       photometric="rgb", description=text, metadata=None, software=False,
                       subfiletype=1 if number and not aperio else 0, **how)


def stripped(name, levels, rows, compression, predictor=None, subifds=False, byteorder="<", **how):
    """Strips as tifffile writes them; lower levels as further pages or as SubIFDs of the first."""
    with tifffile.TiffWriter(FOLDER / name, byteorder=byteorder) as tiff:
        for number, level in enumerate(levels):
            more = {"subifds": len(levels) - 1} if subifds and number == 0 else {}
            tiff.write(level, photometric="rgb", rowsperstrip=rows, compression=compression, predictor=predictor,
                       resolution=(20040.0, 20040.0), resolutionunit="centimeter", metadata=None, software=False,
                       subfiletype=1 if number else 0, **more, **how)


def tiff_levels(path, count):
    with tifffile.TiffFile(path) as tiff:
        pages = list(tiff.pages)
        pages = [pages[0], *(pages[0].pages or [])] if pages[0].subifds else pages
        return [p.asarray() for p in pages[:count]]


def over_white(picture):
    """RGBA of 8 or 16 bits (not multiplied) as 8-bit RGB on white."""
    if picture.dtype == np.uint16:
        picture = ((picture.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if picture.shape[2] == 3:
        return picture
    colour, alpha = picture[..., :3].astype(np.uint32), picture[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def opened(path):
    with openslide.OpenSlide(path) as slide:
        return [np.asarray(slide.read_region((0, 0), n, s).convert("RGB")) for n, s in enumerate(slide.level_dimensions)]


def entry(name, purpose, fmt, levels, block_px, lossless, mpp=0.499, in_openslide=False):
    path = FOLDER / name
    if in_openslide:
        for ours, theirs in zip(levels, opened(path), strict=True):
            assert np.abs(ours.astype(int) - theirs).max() <= 2, name
            levels = opened(path)
    data = path.read_bytes()
    e = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "purpose": purpose,
         "origin": DERIVED.replace("make_testdata", "make_codings_testdata"), "license": "CC0-1.0", "format": fmt,
         "openslide": in_openslide, "lossless": lossless, "mpp": mpp}
    e["level"] = []
    for level in levels:
        h, w = level.shape[:2]
        spots = [(x, y) for y in (h // 7, h // 2, h - 2) for x in (w // 9, w // 2, w - 2)]
        values = {"width": w, "height": h, "block_px": block_px or w,
                  "mean_rgb": [round(float(v), 3) for v in level.reshape(-1, 3).mean(0)],
                  "pixels": [[x, y, *map(int, level[y, x])] for x, y in spots]}
        if lossless:
            values["rgb_sha256"] = hashlib.sha256(np.ascontiguousarray(level).tobytes()).hexdigest()
        e["level"].append(values)
    print(f"{len(data):7} {name}  {purpose}")
    return e


def reduced_block(picture, name, by):
    """The first block decoded at 1/2**by of its size, by Pillow (openjpeg)."""

    def plane(stream):
        image = Image.open(io.BytesIO(stream))
        image.reduce = by
        return np.asarray(image)

    block = next(blocks_of(picture, 128, "edge"))
    if name == "33005":
        return plane(j2k(block, mct=True))
    if name == "33003":
        return from_ycbcr(plane(j2k(to_ycbcr(block), mct=False)))
    y, cb, cr = (plane(p) for p in planes_422(block))
    return from_ycbcr(np.stack([y, cb.repeat(2, 1), cr.repeat(2, 1)], -1))


def write_reduced(sources):
    lines = ["# Made by scripts/make_codings_testdata.py. The first block at a reduced size: [x, y, r, g, b]."]
    for name, picture in sources.items():
        for by in (1, 2) if name.endswith("422") else (1, 2, 3):
            small = reduced_block(picture, name, by)
            side = small.shape[0]
            spots = [(x, y) for y in range(1, side, side // 4) for x in range(1, side, side // 4)]
            values = [[x, y, *map(int, small[y, x])] for x, y in spots]
            lines += ["", "[[block]]", f'file = "aperio_{name}.svs"', f"divisor = {2 ** by}", f"pixels = {values}"]
    (FOLDER / "reduced.toml").write_text("\n".join(lines) + "\n")


def make():
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.iterdir():
        stale.unlink()
    source = tifffile.imread(TESTDATA / SOURCE, key=0)
    large, small = crop(source, 690, 1880, 221, 163), crop(source, 700, 1900, 91, 77)
    pyramid, tiny = [large, reduced(large, 4, False)], [small, reduced(small, 2, True)]
    entries = []
    tiled("aperio_33005.svs", pyramid, lambda b: j2k(b, mct=True), 33005, aperio="KDU")
    entries.append(entry("aperio_33005.svs", "JPEG2000 33005: RGB, the colour transform inside the codestream", "aperio",
                         opened(FOLDER / "aperio_33005.svs"), 128, False, in_openslide=True))
    tiled("aperio_33003.svs", pyramid[:1], lambda b: j2k(to_ycbcr(b), mct=False), 33003, aperio="YUV24")
    entries.append(entry("aperio_33003.svs", "JPEG2000 33003: YCbCr, to be converted outside the codestream", "aperio",
                         opened(FOLDER / "aperio_33003.svs"), 128, False, in_openslide=True))
    other = crop(source, 700, 1900, 151, 117)
    tiled("aperio_33003_422.svs", [other], j2k_422, 33003, aperio="YUV16")
    entries.append(entry("aperio_33003_422.svs", "JPEG2000 33003 with chroma at half the width", "aperio",
                         opened(FOLDER / "aperio_33003_422.svs"), 128, False, in_openslide=True))
    tiled("generic_34712.tif", tiny, lambda b: j2k(b, mct=True, level=0, reversible=True, resolutions=2), 34712, px=64)
    entries.append(entry("generic_34712.tif", "JPEG2000 34712, reversible, with one reduced resolution only", "generic-tiff",
                         tiff_levels(FOLDER / "generic_34712.tif", 2), 64, True))
    tiled("generic_webp.tif", pyramid, lambda b: imagecodecs.webp_encode(b, level=60), 50001)
    entries.append(entry("generic_webp.tif", "WebP 50001, lossy", "generic-tiff",
                         tiff_levels(FOLDER / "generic_webp.tif", 2), 128, False))
    tiled("generic_webp_lossless.tif", tiny[1:], lambda b: imagecodecs.webp_encode(b, lossless=True), 50001, px=64)
    entries.append(entry("generic_webp_lossless.tif", "WebP 50001, lossless", "generic-tiff",
                         tiff_levels(FOLDER / "generic_webp_lossless.tif", 1), 64, True))
    stripped("strips_1_deflate.tif", tiny, 1, "deflate", predictor=True)
    entries.append(entry("strips_1_deflate.tif", "strips of one row, deflate with predictor; the reduced level is stripped too",
                         "generic-tiff", tiff_levels(FOLDER / "strips_1_deflate.tif", 2), None, True))
    stripped("strips_jpeg.tif", [large], large.shape[0], "jpeg")
    entries.append(entry("strips_jpeg.tif", "one JPEG strip for the whole page", "generic-tiff",
                         tiff_levels(FOLDER / "strips_jpeg.tif", 1), None, False))
    ramp = np.linspace(0, 65535, small.shape[1]).astype(np.uint16)
    rgba = np.dstack([small.astype(np.uint16) * 257, np.broadcast_to(ramp, small.shape[:2])])[:50]
    stripped("strips_rgba16_be.tif", [rgba, rgba[::2, ::2]], 7, "lzw", subifds=True, byteorder=">",
             extrasamples=["unassalpha"])
    entries.append(entry("strips_rgba16_be.tif", "RGBA of 16 bits, big-endian, LZW strips of 7 rows; the level is a SubIFD",
                         "generic-tiff", [over_white(p) for p in tiff_levels(FOLDER / "strips_rgba16_be.tif", 2)], None, True))
    stripped("strips_raw.tif", [small[:60]], 60, None)
    entries.append(entry("strips_raw.tif", "one uncompressed strip", "generic-tiff", [small[:60]], None, True))
    Image.fromarray(small).save(FOLDER / "flat.jpg", quality=80)
    entries.append(entry("flat.jpg", "a plain JPEG file: no mpp", "jpeg", [np.asarray(Image.open(FOLDER / "flat.jpg"))], 512,
                         False, mpp=None))
    alpha = np.dstack([small, np.broadcast_to((ramp >> 8).astype(np.uint8), small.shape[:2])])
    Image.fromarray(alpha).save(FOLDER / "flat_rgba.png")
    entries.append(entry("flat_rgba.png", "a PNG file with transparency: no mpp", "png", [over_white(alpha)], 512, True,
                         mpp=None))
    write_reduced({"33005": large, "33003": large, "33003_422": other})
    total = sum(e["bytes"] for e in entries)
    assert total < MAX_TOTAL_BYTES, total
    head = "# Made by scripts/make_codings_testdata.py; do not edit. Keys as in ../manifest.toml.\n"
    (FOLDER / "manifest.toml").write_text(manifest(entries, head))
    print(f"{total:7} in {len(entries)} files")


if __name__ == "__main__":
    make()
