"""Codings and formats beside JPEG in TIFF, against openslide-python; what comes before the first tile."""

import tomllib

import numpy as np

from common import ROOT, best, check, compared, lines_of, say, tiles_bench, tissue_tiles
from reading import RGB, paraffin_in_turn, peers_in_turn, told
from slides import large_slides, vms_slide


def side_by_side(context, slide, name, part, ways, *flags):
    """paraffin and openslide-python on one and two threads."""
    coords, side = tissue_tiles(context, slide, name)
    count = len(np.load(coords))
    slide.read_bytes()
    rounds = {1: {}, 2: {}}
    for number in range(context.rounds):
        for threads, so_far in rounds.items():
            paraffin_in_turn(context, slide, count, so_far, threads, ways, *RGB, *flags)
            peers_in_turn(context, slide, coords, side, so_far, threads, ["bare", "resized"], ["openslide"])
            told(number, f"{part}, {threads} threads", so_far)
    return rounds, f"{count} tiles of {side} → 256 px"


def jpeg2000(context):
    """A JPEG2000 slide, whole and at half its resolution."""
    slide = context.data / "composed/small_j2k33005.svs"
    rounds, what = side_by_side(context, slide, "j2k", "jpeg2000", "mosaic,exact,scaled")
    checks = []
    for threads, r in rounds.items():
        words = f", {threads} threads" if threads > 1 else ""
        checks += [
            compared(f"whole / openslide-python, bare read{words}", 1, r["mosaic"], r["openslide bare"]),
            compared(f"exact / openslide-python + Pillow{words}", 1, r["exact"], r["openslide resized"]),
            compared(f"scaled / openslide-python + Pillow{words}", 2, r["scaled"], r["openslide resized"]),
        ]
    by = tiles_bench(context, slide, "--ways", "open", "--rounds", "1")["open"]["reader"]
    return {"title": f"JPEG2000 (reader: {by}), {what}", "rounds": rounds, "checks": checks}


def openslide(context):
    """A Hamamatsu VMS, which OpenSlide alone reads: paraffin's processes of OpenSlide."""
    slide = vms_slide(context.slide, context.temporary)
    rounds, what = side_by_side(context, slide, "vms", "openslide", "mosaic,exact")
    checks = []
    for threads, r in rounds.items():
        words = f", {threads} threads" if threads > 1 else ""
        checks += [
            compared(f"before resampling / openslide-python, bare read{words}", 1, r["mosaic"], r["openslide bare"]),
            compared(f"exact / openslide-python + Pillow{words}", 1, r["exact"], r["openslide resized"]),
        ]
    checks.append(check("exact, two threads / one", 1.8, best(rounds[2]["exact"]) / best(rounds[1]["exact"])))
    return {"title": f"Through OpenSlide (Hamamatsu VMS), {what}", "rounds": rounds, "checks": checks}


def startup(context):
    """Finding tissue on 60,000 x 50,000 px, and opening a slide of every format at hand."""
    checks, opened = [], []
    for name, wanted, slide in large_slides(context.slide, context.temporary):
        slide.read_bytes()
        line = tiles_bench(context, slide, "--ways", "tissue", "--rounds", str(context.rounds), threads=None)["tissue"]
        say(f"tissue, {name}: {line['seconds']:.2f} s for {line['tiles']} tiles")
        checks.append(check(f"tissue pass of 60,000 x 50,000 px, {name}: seconds", wanted, line["seconds"], at_most=True))
        slide.unlink()
    known = [*context.data.glob("composed/*.*"), *context.data.glob("real/**/*.*"), *fixtures(), vms_slide(context.slide, context.temporary)]
    slides = [slide for slide in sorted(known) if slide.suffix not in (".md", ".png", ".jpg")]
    command = [context.bench, "--bench", *slides, "--ways", "open", "--rounds", "7", "--program", context.program]
    for line in lines_of(command):
        opened.append({"slide": line["slide"], "ms": 1e3 * line["seconds"], "format": line["format"], "reader": line["reader"]})
    say(f"opened {len(opened)} of {len(slides)} files")
    worst = {}
    for line in opened:
        kind = (line["format"], line["reader"].split()[0])
        if line["ms"] > worst.get(kind, {"ms": 0})["ms"]:
            worst[kind] = line
    for (form, reader), line in sorted(worst.items()):
        checks.append(check(f"opening {form} ({reader}), the slowest file: ms", 5, line["ms"], at_most=True))
    return {"title": "Before the first tile", "checks": checks, "opened": opened}


def fixtures():
    """The slides that the tests read."""
    for manifest in [ROOT / "testdata/manifest.toml", *(ROOT / "testdata").glob("*/manifest.toml")]:
        for entry in tomllib.loads(manifest.read_text())["file"]:
            yield manifest.parent / entry["file"]
