#!/usr/bin/env python3
"""Makes docs/pictures/report.png and viewer.png: screenshots of the report and the viewer of a small cohort, which are parts of
testdata/CMU-1-Small-Region.svs (CC0).

    .venv/bin/python scripts/make_pictures.py target/release/paraffin
"""

import pathlib
import subprocess
import sys
import tempfile

import openslide
from PIL import Image

from browser import Browser

ROOT = pathlib.Path(__file__).resolve().parent.parent
SLIDE, PICTURES = ROOT / "testdata/CMU-1-Small-Region.svs", ROOT / "docs/pictures"
PARTS = [(300, 0, 1500, 1400), (500, 900, 1600, 1300), (450, 1500, 1700, 1467), (700, 300, 1300, 1700), (300, 1900, 1500, 1067),
         (900, 900, 1200, 1200), (400, 500, 900, 1900), (1000, 1700, 1100, 1267), (500, 100, 1000, 900), (600, 2100, 1500, 867)]
BYTES_MAX = 400_000


def save(page, name):
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(file.name)
        picture = Image.open(file.name).convert("RGB")
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / name
    for colours in (256, 192, 128, 96, 64):
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= BYTES_MAX:
            return
    raise SystemExit(f"{name} is larger than {BYTES_MAX} bytes")


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        slides, out = folder / "slides", folder / "out"
        slides.mkdir()
        whole = openslide.OpenSlide(SLIDE)
        for number, (x, y, width, height) in enumerate(PARTS, 1):
            path = slides / f"part-{number:02}.png"
            whole.read_region((x, y), 0, (width, height)).convert("RGB").save(path)
        broken = slides / "truncated.svs"
        broken.write_bytes(SLIDE.read_bytes()[:1_500_000])
        words = [SLIDE, *sorted(slides.iterdir()), "--mpp", "0.499", "--tile-px", "96", "-o", out, "--progress", "none"]
        subprocess.run([program, "embed", *words], stderr=subprocess.DEVNULL)
        report = subprocess.run([program, "report", out], check=True, capture_output=True, text=True).stdout.strip()
        view = subprocess.Popen([program, "view", out], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            with Browser(size=(1280, 860)) as browser:
                page = browser.open(pathlib.Path(report).as_uri())
                page.wait("document.documentElement.dataset.ready")
                page.value("resize(175)")
                page.wait("(i => i.length > 8 && i.every(i => i.complete))([...document.querySelectorAll('#cells img')])")
                save(page, "report.png")
                page = browser.open(view.stdout.readline().strip() + "#slide=0&tile=158")
                page.media(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
                page.wait("document.documentElement.dataset.shown === '0' && lit.size > 0")
                page.wait("fetch('progress.json').then(a => a.json()).then(p => p.seen === p.of)")
                page.value("select(158).then(() => null)")
                page.value("viewer.viewport.zoomTo(viewer.viewport.imageToViewportZoom(0.55), null, true); by('opacity').value = 30; draw(); null")
                page.wait("viewer.world.getItemAt(0).getFullyLoaded()")
                page.wait("(i => i.length > 3 && i.every(i => i.complete))([...document.querySelectorAll('#hits img')])")
                save(page, "viewer.png")
        finally:
            view.kill()
            view.wait()


if __name__ == "__main__":
    main()
