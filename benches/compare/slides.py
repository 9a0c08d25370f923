"""Slides that nobody keeps: made of the benchmark slide's own blocks when they are measured."""

import struct

TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTE_COUNTS, JPEG_TABLES = 322, 323, 324, 325, 347


class Page:
    """A tiled page of a little-endian classic TIFF: its tags as they lie, and its blocks."""

    def __init__(self, data, at):
        self.tags = {}
        (count,) = struct.unpack_from("<H", data, at)
        for i in range(count):
            tag, kind, number, value = struct.unpack_from("<HHII", data, at + 2 + 12 * i)
            size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind] * number
            raw = data[at + 10 + 12 * i :][:size] if size <= 4 else data[value : value + size]
            self.tags[tag] = (kind, number, bytes(raw))
        (self.next,) = struct.unpack_from("<I", data, at + 2 + 12 * count)

    def numbers(self, tag):
        kind, number, raw = self.tags[tag]
        return struct.unpack(f"<{number}{'H' if kind == 3 else 'I'}", raw)


def tiled_pages(data):
    assert data[:4] == b"II*\x00", "the benchmark slide is a little-endian classic TIFF"
    (at,) = struct.unpack_from("<I", data, 4)
    pages = []
    while at:
        page = Page(data, at)
        pages += [page] if TILE_WIDTH in page.tags else []
        at = page.next
    return pages


def repeated(source, target, size, levels):
    """A slide of `size` whose levels are those of `source`, side by side again and again: a BigTIFF whose block tables
    point to the same blocks many times over, so that it is no larger than its source."""
    data = source.read_bytes()
    shift = 16
    out = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) + data)
    pages = tiled_pages(data)[:levels]
    width0 = pages[0].numbers(256)[0]
    link = 8
    for page in pages:
        (width, height), side = (page.numbers(t)[0] for t in (256, 257)), page.numbers(TILE_WIDTH)[0]
        assert width % side == 0 and height % side == 0, "levels of whole blocks repeat without a seam"
        reduction = width0 // width
        columns, rows = (-(-(s // reduction) // side) for s in size)
        offsets, counts = page.numbers(TILE_OFFSETS), page.numbers(TILE_BYTE_COUNTS)
        blocks = [
            row % (height // side) * (width // side) + col % (width // side) for row in range(rows) for col in range(columns)
        ]
        tags = dict(page.tags)
        tags[256], tags[257] = ((4, 1, struct.pack("<I", s // reduction)) for s in size)
        tags[TILE_OFFSETS] = (16, len(blocks), struct.pack(f"<{len(blocks)}Q", *(offsets[b] + shift for b in blocks)))
        tags[TILE_BYTE_COUNTS] = (4, len(blocks), struct.pack(f"<{len(blocks)}I", *(counts[b] for b in blocks)))
        entries = bytearray()
        for tag, (kind, number, raw) in sorted(tags.items()):
            if len(raw) > 8:
                out += b"\0" * (-len(out) % 8)
                at, raw = len(out), out.extend(raw)
                raw = struct.pack("<Q", at)
            entries += struct.pack("<HHQ8s", tag, kind, number, raw)
        out += b"\0" * (-len(out) % 8)
        struct.pack_into("<Q", out, link, len(out))
        out += struct.pack("<Q", len(tags)) + entries
        link = len(out)
        out += struct.pack("<Q", 0)
    target.write_bytes(out)
    return target


def large_slides(source, folder):
    """60,000 x 50,000 px: as a scanner writes it, and without lower levels. What it is, the seconds that its tissue pass
    may take, the file."""
    size = (60_000, 50_000)
    yield "all levels", 1.0, repeated(source, folder / "large.svs", size, 9)
    # Without lower levels every block must be decoded once: measured, no figure was promised.
    yield "level 0 alone", None, repeated(source, folder / "large_1level.svs", size, 1)


def vms_slide(source, folder, side=6144, block=512):
    """A Hamamatsu VMS slide, one of those that OpenSlide alone reads, of the benchmark slide's middle: an index file, the
    picture as a JPEG with a restart marker after every `block` pixels, and a small picture of it."""
    index = folder / "bench.vms"
    if index.exists():
        return index
    import openslide
    from PIL import Image

    slide = openslide.OpenSlide(source)
    x, y = ((s - side) // 2 for s in slide.dimensions)
    picture = Image.new("RGB", (side, side))
    for top in range(0, side, 1024):
        picture.paste(slide.read_region((x, y + top), 0, (side, 1024)).convert("RGB"), (0, top))
    nm = float(slide.properties["openslide.mpp-x"]) * 1000
    # 4:2:2: its MCUs are 16 x 8 pixels. (4:2:0 OpenSlide opens, and cannot read at full size.)
    coded = {"quality": 80, "subsampling": "4:2:2"}
    picture.save(folder / "bench.jpg", restart_marker_blocks=block // 16, **coded)
    picture.reduce(16).save(folder / "bench_map.jpg", restart_marker_blocks=side // 256, **coded)
    index.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=bench.jpg\n"
        f"MapFile=bench_map.jpg\nOptimisationFile=\nSourceLens=40\nPhysicalWidth={nm * side:.0f}\n"
        f"PhysicalHeight={nm * side:.0f}\nLayerSpacing=0\nMacroImage=bench_map.jpg\nPhysicalMacroWidth={nm * side:.0f}\n"
        f"PhysicalMacroHeight={nm * side:.0f}\nXOffsetFromSlideCentre=0\nYOffsetFromSlideCentre=0\n"
    )
    return index
