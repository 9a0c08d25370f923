#!/usr/bin/env python3
"""Draws docs/pictures/tissue.jpg: overviews of pictures of many kinds with the outlines that `--tissue auto` gives.

    PEERS/bin/python benches/tissue_montage.py --paraffin target/release/paraffin

Real pictures come from scikit-image and stardist (installed from PyPI: `pip install --no-deps scikit-image stardist`), from testdata, and
from ../shared/data where this machine has it; what is missing is named and left out. Pictures that state no resolution are given one,
so their scale bars mean nothing.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
FIXTURES = ROOT / "testdata" / "tissue"
FIXTURE_MPP = ["--mpp", "4", "--target-mpp", "4", "--tile-px", "32"]
SIDE, COLUMNS = 300, 6


def installed(*parts):
    return next((p for p in (Path(p).joinpath(*parts) for p in sys.path if p) if p.is_file()), Path(*parts))


def pictures():
    """Label, licence, file, words for paraffin."""
    crop = ["--mpp", "2", "--target-mpp", "2", "--tile-px", "64"]
    yield "IHC, colon", "scikit-image ihc.png, CC0", installed("skimage", "data", "ihc.png"), crop
    yield "H&E crop", "stardist histo.jpg, BSD-3", installed("stardist", "data", "images", "histo.jpg"), crop
    yield "H&E, skin", "OpenSlide CMU-1, CC0", ROOT / "testdata" / "CMU-1-Small-Region.svs", []
    yield "lymph node", "CAMELYON, CC0", SHARED / "real/dicom/camelyon-jpeg/multi_frame_jpeg_camelyon_challenge_image.dcm", ["--mpp", "8", "--target-mpp", "8", "--tile-px", "32"]
    yield "H&E", "OpenSlide OS-1, free", SHARED / "real/ome-tiff/OS-1-detail.ome.tif", []
    yield "fluorescence", "M. Stritt, CC BY 4.0", SHARED / "real/ndpi/test3-TRITC-2-560.ndpi", []
    yield "composed", "CC0 tissue", SHARED / "composed/small_ycc420.svs", []
    yield "composed, large", "CC0 tissue", SHARED / "composed/medium_ycc420.svs", []
    for path in sorted(FIXTURES.glob("*.jpg")):
        yield path.stem.replace("_", " "), "made of CMU-1, CC0", path, FIXTURE_MPP


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paraffin", default=str(ROOT / "target" / "release" / "paraffin"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "tissue.jpg")
    args = parser.parse_args()
    cells = []
    for label, licence, path, words in pictures():
        if not path.is_file():
            print(f"skipped: {label}: {path} is not here")
            continue
        with tempfile.TemporaryDirectory() as folder:
            command = [args.paraffin, "tiles", path, "-o", folder, "--progress", "none", *words]
            run = subprocess.run(command, capture_output=True, text=True)
            overviews = list(Path(folder).glob("*/overviews/*.jpg"))
            if run.returncode or not overviews:
                print(f"skipped: {label}: {run.stderr.strip()[-300:]}")
                continue
            cell = Image.new("RGB", (SIDE, SIDE + 34), "white")
            overview = Image.open(overviews[0])
            overview.thumbnail((SIDE, SIDE))
            cell.paste(overview, ((SIDE - overview.width) // 2, (SIDE - overview.height) // 2))
            draw = ImageDraw.Draw(cell)
            draw.text((4, SIDE + 4), label, fill="black")
            draw.text((4, SIDE + 18), licence, fill=(110, 110, 110))
            cells.append(cell)
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (SIDE * COLUMNS, (SIDE + 34) * rows), "white")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % COLUMNS * SIDE, i // COLUMNS * (SIDE + 34)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, quality=82, optimize=True)
    print(f"{len(cells)} pictures, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
