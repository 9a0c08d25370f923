#!/usr/bin/env python3
"""Checks the report and the viewer in headless Chromium, as a person uses them: what they show against numpy and
openslide-python, filters, sorting, keys, themes, names and contrast; and that neither can be talked into more.

    .venv/bin/python scripts/check_pages.py target/debug/paraffin report
    .venv/bin/python scripts/check_pages.py target/debug/paraffin view
"""

import http.client
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

import h5py
import numpy as np
import openslide
from PIL import Image

from browser import Browser
from make_cohort import ENCODER, GRID, HOSTILE

ROOT = pathlib.Path(__file__).resolve().parent.parent
SLIDE = ROOT / "testdata/CMU-1-Small-Region.svs"
LIST = "[...document.querySelectorAll('#rows tbody tr')].map(row => row.cells[0].textContent)"
COUNT = "document.getElementById('count').textContent"


def check(holds, what):
    if not holds:
        raise SystemExit(f"FAILED: {what}")


def equal(got, expected, what):
    check(got == expected, f"{what}: {got!r}, expected {expected!r}")


def paraffin(program, *words):
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True)
    check(done.returncode == 0, f"{words}: {done.stderr}")
    return done


def names_and_contrast(page, where):
    """Every control has a name, ids are unique, and words stand out from their ground (WCAG AA, 4.5 to 1)."""
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "textbox", "searchbox", "combobox", "slider", "checkbox", "dialog"}
    bare = [n["role"]["value"] for n in nodes if not n.get("ignored") and n.get("role", {}).get("value") in roles
            and not n.get("name", {}).get("value")]
    equal(bare, [], f"{where}: controls without a name")
    check(page.value("(ids => new Set(ids).size === ids.length)([...document.querySelectorAll('[id]')].map(n => n.id))"),
          f"{where}: an id twice")
    check(page.value("document.documentElement.lang") == "en", "a language")
    for theme in ("light", "dark"):
        page.media(prefers_color_scheme=theme)
        colours = page.value("""(() => {
            const style = getComputedStyle(document.documentElement);
            const names = ["page", "panel", "text", "quiet", "accent", "on-accent", "warn", "warn-soft", "bad", "bad-soft"];
            return Object.fromEntries(names.map(n => [n, style.getPropertyValue("--" + n).trim()]));
        })()""")
        pairs = [(ink, ground) for ink in ("text", "quiet", "accent", "warn", "bad") for ground in ("page", "panel")]
        for ink, ground in [*pairs, ("warn", "warn-soft"), ("bad", "bad-soft"), ("on-accent", "accent")]:
            ratio = contrast(colours[ink], colours[ground])
            check(ratio >= 4.5, f"{where}, {theme}: {ink} on {ground} has a contrast of {ratio:.2f}")
    page.media(prefers_color_scheme="light")


def contrast(a, b):
    def luminance(colour):
        channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def check_report(program, folder):
    out = folder / "out"
    subprocess.run([sys.executable, ROOT / "scripts/make_cohort.py", out, "--slides", "40", "--overview-px", "500"],
                   check=True, stdout=subprocess.DEVNULL)
    records = [json.loads(p.read_text()) for p in (out / GRID / f"records/features_{ENCODER}").iterdir()]
    failed = ["F00000", "F00001"]
    path = pathlib.Path(paraffin(program, "report", out).stdout.strip())
    equal(path, out / "site-private/report.html", "the place of a private report")
    first = path.read_bytes()
    paraffin(program, "report", out)
    check(path.read_bytes() == first, "the same cohort gives other bytes")
    with Browser() as browser:
        page = browser.open(path.as_uri())
        page.wait("document.documentElement.dataset.ready")
        equal(sorted(page.value(LIST)), sorted([r["id"] for r in records] + failed), "ids in the table, hostile ones too")
        equal(page.value("document.title"), "paraffin report", "the title, which hostile ids would change")
        equal(page.value("document.querySelectorAll('.cell').length"), 42, "cells of the montage")
        # Pictures come when they are near the screen.
        page.wait("[...document.querySelectorAll('#cells img')].filter(i => i.complete && i.naturalWidth).length >= 20")

        page.click("#query")
        page.type("ndpi")
        wanted = sorted(r["id"] for r in records if r["slide"]["format"] == "ndpi")
        page.wait(f"{COUNT}.startsWith('{len(wanted)} of ')")
        equal(sorted(page.value(LIST)), wanted, "the slides that a word finds")
        page.click("#reset")
        page.value("by('format').value = 'dicom'; by('format').dispatchEvent(new Event('change'))")
        equal(sorted(page.value(LIST)), sorted(r["id"] for r in records if r["slide"]["format"] == "dicom"), "a format")
        page.click("#reset")
        page.click("#chips [data-name=failed]")
        equal(page.value(LIST), failed, "failed slides")
        page.click("#chips [data-name=empty]")
        equal(sorted(page.value(LIST)), sorted(failed + ["S00007"]), "failed or empty slides")
        page.click("#reset")
        equal(page.value(COUNT), "42 of 42 slides", "after a reset")
        said = page.value("document.getElementById('failure-list').textContent")
        check("<b>bold</b>" in said and "/archive/F00000.svs" in said, "failures with their reasons and paths")

        tiles = {r["id"]: r["tiles"]["written"] for r in records}
        page.click("#rows th:nth-child(8) button")
        shown = page.value(LIST)
        equal([tiles[i] for i in shown if i in tiles], sorted(tiles.values(), reverse=True), "sorted by tiles, most first")
        equal(shown[-2:], failed, "slides without tiles at all, at the end")
        equal(page.value("document.querySelector('#rows th:nth-child(8)').ariaSort"), "descending", "aria-sort")
        page.click("#rows th:nth-child(8) button")
        equal([tiles[i] for i in page.value(LIST) if i in tiles], sorted(tiles.values()), "sorted by tiles, fewest first")
        check("sort=tiles" in page.value("location.hash"), "the order stands in the address")
        page.click("#reset")

        found = {r["id"]: r["tissue"]["found"] for r in records}
        page.click("#chips [data-name=suspicious]")
        equal(page.value(LIST), sorted(i for i, f in found.items() if f["suspicion"]), "suspicious tissue")
        page.click("#chips [data-name=pen]")
        wanted = sorted(i for i, f in found.items() if f["suspicion"] or f["artefacts_mm2"]["pen"] > 0)
        equal(sorted(page.value(LIST)), wanted, "suspicious or with pen")
        page.click("#reset")
        page.click("#chips [data-name=blurred]")
        equal(sorted(page.value(LIST)), sorted(i for i, f in found.items() if (f["qc_mean"]["blur"] or 0) > 0.2), "out of focus")
        page.click("#reset")
        blur = "[...document.querySelectorAll('#rows th')].findIndex(h => h.textContent.startsWith('blur')) + 1"
        page.click(f"#rows th:nth-child({page.value(blur)}) button")
        shown = [found[i]["qc_mean"]["blur"] for i in page.value(LIST) if i in found]
        known = [v for v in shown if v is not None]
        equal(shown, sorted(known, reverse=True) + [None] * (len(shown) - len(known)), "sorted by blur, unknown at the end")
        page.click("#reset")
        runs(page, out)

        label = page.value("[...document.querySelectorAll('#charts .chart:first-child .bars button')].map(b => b.ariaLabel)"
                           ".find(l => !l.startsWith('0 '))")
        page.click(f"#charts .chart:first-child .bars button[aria-label='{label}']")
        equal(page.value(COUNT).split(" of")[0], label.split(" ")[0], "slides that a bar filters for")
        page.click("#reset")

        page.value("document.activeElement.blur()")
        for key, layer in (("m", "map"), ("t", "overview"), ("b", "both")):
            page.key(key)
            equal(page.value("document.body.dataset.layer"), layer, f"the layer of key {key}")
        page.click(".cell:nth-child(3) button")
        check(page.value("document.getElementById('slide').open"), "a slide opens")
        title = page.value("document.getElementById('slide-title').textContent")
        page.key("ArrowRight")
        check(page.value("document.getElementById('slide-title').textContent") != title, "the next slide")
        page.key("ArrowLeft")
        equal(page.value("document.getElementById('slide-title').textContent"), title, "back again")
        names_and_contrast(page, "the open slide")
        page.key("Escape", number=27)
        page.wait("!document.getElementById('slide').open")
        check(page.value("document.activeElement.closest('.cell') !== null"), "the focus is back on the slide's cell")

        maps(page, out, records)
        names_and_contrast(page, "report")
        ground = "getComputedStyle(document.body).backgroundColor"
        bright = page.value(ground)
        page.click("#theme")
        page.click("#theme")
        check(page.value(ground) != bright, "the theme button makes it dark")
        page.send("Emulation.setEmulatedMedia", media="print")
        equal(page.value("getComputedStyle(document.querySelector('.filters')).display"), "none", "filters in print")
        page.value("window.dispatchEvent(new Event('beforeprint'))")
        equal(page.value("document.querySelectorAll('#cells .picture[data-filled]').length"), 40, "pictures in print")
        equal(page.complaints(), [], "errors in the page")
        fetched = {e["request"]["url"] for e in page.events("Network.requestWillBeSent")}
        equal({u for u in fetched if not u.startswith("data:image/")}, {path.as_uri()}, "what the page fetches")

        path = pathlib.Path(paraffin(program, "report", out, "--shareable").stdout.strip())
        text = path.read_text()
        for secret in [*tiles, *failed, *HOSTILE, "/archive", "bold", '"overview":', "worker-", '"samples"']:
            found = json.dumps(secret, ensure_ascii=False)[1:-1].replace("<", "\\u003c")
            check(found not in text, f"a shareable report holds {secret!r}")
        page = browser.open(path.as_uri())
        page.wait("document.documentElement.dataset.ready")
        equal(page.value("[document.querySelectorAll('.cell').length, document.querySelectorAll('img.overview').length]"),
              [40, 0], "cells and overviews of a shareable report")
        equal(page.complaints(), [], "errors in the shareable page")


def runs(page, out):
    """The runs' charts tell the shares that the notes hold."""
    notes = [json.loads(p.read_text()) for p in (out / "site-private/runs").iterdir()]
    wanted = set()
    for note in notes:
        end = note["samples"][-1]
        waited = 100 * end["model_waits"] / (end["model_waits"] + end["embedding"])
        wanted.add((f"{note['slides_done']} slides, {end['tiles']:,} tiles in {end['seconds']:.0f} s", round(waited)))
    labels = page.value("[...document.querySelectorAll('#run-charts .run')].map(r => r.ariaLabel)")
    got = {(label.split(". ")[0], round(float(label.split("Encoders waited ")[1].split(" %")[0]))) for label in labels}
    equal(got, wanted, "runs and how long their encoders waited")
    # Of the stalled run the bars of the second half are dark by half, and of the other none.
    dark = page.value("[...document.querySelectorAll('#run-charts .run')].map("
                      "r => [...r.querySelectorAll('.bars > span > span')].map(b => parseFloat(b.style.height)))")
    shares = sorted([max(bars) for bars in dark])
    check(shares[0] == 0 and abs(shares[1] - 50) < 1, f"dark parts of the bars: {shares}")


def maps(page, out, records):
    """The feature maps are the principal components that numpy finds, up to sign, in the right places."""
    bags = {}
    for record in records:
        with h5py.File(out / GRID / record["files"][0]["path"]) as f:
            bags[record["id"]] = (f["coords"][:], f["features"][:].astype("f8"))
    everything = np.concatenate([features for _, features in bags.values()])
    mean = everything.mean(0)
    _, strengths, axes = np.linalg.svd(everything - mean, full_matrices=False)
    explained = strengths[:3] ** 2 / (strengths ** 2).sum()
    told = page.value("data.explained")
    check(np.allclose(told, explained, atol=0.03), f"explained variance {told}, numpy says {explained}")
    record = next(r for r in records if r["id"] == "S00020")
    coords, features = bags["S00020"]
    # The page's own picture, a pixel a tile, and where it lies.
    got = page.value("""(async () => {
        const found = JSON.parse(by("p" + slides.find(s => s.id === "S00020").picture).textContent);
        const image = new Image();
        image.src = "data:image/png;base64," + found.map;
        await image.decode();
        const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
        canvas.drawImage(image, 0, 0);
        return { place: found.place, width: image.width, pixels: [...canvas.getImageData(0, 0, image.width, image.height).data] };
    })()""")
    pixels = np.array(got["pixels"]).reshape(-1, got["width"], 4)
    step = record["read"]["tile_size_level0"]
    cells = (coords - coords.min(0)) // step
    equal([round(got["place"][0] * record["slide"]["width"]), round(got["place"][1] * record["slide"]["height"])],
          coords.min(0).tolist(), "the map's corner")
    equal(int((pixels[..., 3] > 0).sum()), len(coords), "pixels with a tile")
    shown = pixels[cells[:, 1], cells[:, 0], :3]
    check((pixels[cells[:, 1], cells[:, 0], 3] == 255).all(), "every tile has its pixel")
    for channel in range(3):
        scores = (features - mean) @ axes[channel]
        correlation = abs(np.corrcoef(scores, shown[:, channel])[0, 1])
        check(correlation > 0.9, f"channel {channel} and numpy's component correlate by {correlation:.3f} only")


class Viewer:
    def __init__(self, program, *words):
        self.process = subprocess.Popen([program, "view", *map(str, words)], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.url = self.process.stdout.readline().strip()
        check(self.url.startswith("http://127.0.0.1:"), f"an address: {self.url!r}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def check_view(program, folder):
    slides, out = folder / "slides", folder / "out"
    slides.mkdir()
    whole = openslide.OpenSlide(SLIDE)
    whole.read_region((500, 1300), 0, (1500, 1600)).convert("RGB").save(slides / "part.png")
    words = ["embed", SLIDE, slides / "part.png", "--mpp", "0.499", "-o", out, "--progress", "none"]
    paraffin(program, *words)
    grid = out / "20x_224px_0px_overlap"
    bags = {}
    for name in ("CMU-1-Small-Region", "part"):
        with h5py.File(grid / f"features_efficientnet-lite0/{name}.h5") as f:
            features = f["features"][:].astype("f8")
            bags[name] = f["coords"][:], features / np.linalg.norm(features, axis=1, keepdims=True)
    coords, features = bags["CMU-1-Small-Region"]
    tile = 30
    likeness = features @ features[tile]
    order = [i for i in np.argsort(-likeness) if i != tile]
    others = bags["part"][1] @ features[tile]
    with Viewer(program, out) as viewer, Browser() as browser:
        page = browser.open(viewer.url)
        page.wait("document.documentElement.dataset.shown === '0'")
        equal(page.value("[...document.querySelectorAll('#slides button')].map(b => b.title)"),
              ["CMU-1-Small-Region", "part"], "the list of slides")
        page.wait("viewer.world.getItemAt(0).getFullyLoaded() && slide.map")
        # The screen's pixels against openslide-python's, on a patch in the middle of the tissue.
        page.value("by('show-map').checked && by('show-map').click()")
        page.value("viewer.viewport.zoomTo(viewer.viewport.imageToViewportZoom(1), null, true);"
                   "viewer.viewport.panTo(viewer.viewport.imageToViewportCoordinates(1200, 1500), true);"
                   "((at, P) => viewer.viewport.panBy(viewer.viewport.deltaPointsFromPixels(new P(at.x - Math.round(at.x), "
                   "at.y - Math.round(at.y))), true))(viewer.viewport.imageToViewerElementCoordinates("
                   "new OpenSeadragon.Point(1100, 1400)), OpenSeadragon.Point); null")
        # Level 0 has been drawn when a place far inside is sharp: at 1:1, on whole pixels.
        got = page.wait("""new Promise(done => { viewer.addOnceHandler("update-viewport", () => setTimeout(() => {
            const at = viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(1100, 1400));
            const drawn = viewer.world.getItemAt(0).getTilesToDraw().map(t => t.tile.level);
            if (!viewer.world.getItemAt(0).getFullyLoaded() || Math.min(...drawn) < 12) return done(null);
            const pen = viewer.drawer.canvas.getContext("2d");
            done([...pen.getImageData(Math.round(at.x), Math.round(at.y), 200, 200).data]);
        })); viewer.forceRedraw(); })""")
        got = np.array(got).reshape(200, 200, 4)[..., :3].astype(int)
        shifted = {}
        for dx, dy in np.ndindex(7, 7):
            expected = whole.read_region((1097 + dx, 1397 + dy), 0, (200, 200)).convert("RGB")
            shifted[dx - 3, dy - 3] = np.abs(got - np.asarray(expected).astype(int)).mean()
        best = min(shifted, key=shifted.get)
        # OpenSeadragon rounds tiles to whole pixels of the screen.
        check(max(map(abs, best)) <= 1, f"the slide is shifted by {best} pixels on the screen: {shifted[best]:.1f}")
        with urllib.request.urlopen(viewer.url + "slide/0/12/2_2.jpg") as answer:
            tile_shown = np.asarray(Image.open(io.BytesIO(answer.read()))).astype(int)
        expected = np.asarray(whole.read_region((1024, 1024), 0, (512, 512)).convert("RGB")).astype(int)
        difference = np.abs(tile_shown - expected).mean()
        check(difference < 3, f"a tile is {difference:.1f} of 255 from the slide's pixels")
        page.value("viewer.viewport.goHome(true); null")

        x, y = page.value(f"""(() => {{
            const [x, y] = slide.coords[{tile}];
            const at = viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(x + slide.side / 2, y + slide.side / 2));
            const box = by("viewer").getBoundingClientRect();
            return [box.x + at.x, box.y + at.y];
        }})()""")
        page.wait("fetch('progress.json').then(a => a.json()).then(p => p.seen === p.of)", "the index")
        page.click_at(x, y)
        lit = page.wait("lit.size && [...lit.entries()]", "tiles that light up")
        equal(page.value("selected"), tile, "the tile under the click")
        equal({row for row, _ in lit}, set(order[:len(lit)]), "the tiles that light up are numpy's nearest")
        check(len(lit) == 40 and all(abs(c - likeness[row]) < 1e-4 for row, c in lit), "their cosines are numpy's")
        yellow = page.value("""(() => { draw(); const p = overlay.getContext("2d");
            const d = p.getImageData(0, 0, overlay.width, overlay.height).data; let n = 0;
            for (let i = 0; i < d.length; i += 4) n += d[i] === 255 && d[i + 1] === 214 && d[i + 2] === 0 && d[i + 3] === 255;
            return n; })()""")
        check(yellow > 500, f"{yellow} pixels of lit outlines")
        said = page.value("document.querySelector('#hits button').ariaLabel")
        nearest = int(others.argmax())
        check(said.startswith(f"part, tile {nearest}, cosine ") and abs(float(said.split()[-1]) - others.max()) < 0.02,
              f"the nearest tile of the other slide is {nearest}, {others.max():.3f}; the page says {said!r}")
        page.wait("document.querySelector('#hits img').naturalWidth === 112")
        names_and_contrast(page, "viewer")
        page.click("#hits button")
        page.wait("document.documentElement.dataset.shown === '1'")
        page.wait(f"selected === {nearest} && lit.size === 40")
        check(f"slide=1&tile={nearest}" in page.value("location.hash"), "the address names slide and tile")
        page.click("#show-tissue")
        page.wait("slide.overviewPicture !== null")
        equal(page.complaints(), [], "errors in the page")
        fetched = {e["request"]["url"].split("/")[2] for e in page.events("Network.requestWillBeSent")
                   if e["request"]["url"].startswith("http")}
        equal(fetched, {viewer.url.split("/")[2]}, "hosts that the page asks")
        refusals(viewer.url)
    # The slide is gone: the overview in its place, and no word of a path.
    (slides / "part.png").rename(folder / "elsewhere.png")
    with Viewer(program, out) as viewer, Browser() as browser:
        page = browser.open(viewer.url + "#slide=1")
        page.wait("document.documentElement.dataset.shown === '1'")
        said = page.value("by('missing').textContent")
        check("--slides DIR" in said and "its overview" in said and str(folder) not in said, said)
        equal(page.value("viewer.world.getItemCount()"), 1, "pictures in place of the slide")
    with Viewer(program, SLIDE) as viewer, Browser() as browser:
        page = browser.open(viewer.url)
        page.wait("document.documentElement.dataset.shown === '0'")
        equal(page.value("[slide.width, slide.height, by('list').hidden]"), [2220, 2967, True], "a single slide")
        page.wait("viewer.world.getItemAt(0).getFullyLoaded()")
        equal(page.complaints(), [], "errors in the page of one slide")


def refusals(url):
    parts = urllib.parse.urlsplit(url)
    token = parts.path.strip("/")

    def ask(path, method="GET", **headers):
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": parts.netloc, **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()

    port = parts.netloc.split(":")[1]
    for expected, path, more in [
        (200, f"/{token}/slide/0/about.json", {}),
        (200, f"/{token}/slide/0/12/0_0.jpg", {"Host": f"localhost:{port}"}),
        (404, "/", {}), (404, "/cohort.json", {}), (404, f"/{token[:-1]}x/cohort.json", {}),
        (404, f"/{token}/slide/2/about.json", {}), (404, f"/{token}/slide/0/12/99_99.jpg", {}),
        (404, f"/{token}/slide/0/99999999999/0_0.jpg", {}), (404, f"/{token}/slide/0/similar.json?tile=100000", {}),
        (404, f"/{token}/slide/-1/about.json", {}), (404, f"/{token}//etc/passwd", {}),
        (400, f"/{token}/../../etc/passwd", {}), (400, f"/{token}/%2e%2e/%2e%2e/etc/passwd", {}),
        (421, f"/{token}/", {"Host": f"rebound.example:{port}"}), (421, f"/{token}/", {"Host": "127.0.0.1"}),
        (403, f"/{token}/cohort.json", {"Origin": "https://example.org"}),
        (403, f"/{token}/cohort.json", {"Sec_Fetch_Site": "cross-site"}),
        (405, f"/{token}/", {"method": "POST"}), (405, f"/{token}/", {"method": "DELETE"}),
        (431, f"/{token}/", {"X": "y" * 20_000}),
    ]:
        status, body = ask(path, **more)
        equal(status, expected, f"{path.replace(token, 'TOKEN')} {more}")
        check(status == 200 or (b"root:" not in body and token.encode() not in body), "a refusal tells something")


def main():
    program, what = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        {"report": check_report, "view": check_view}[what](program, pathlib.Path(folder))
    print(f"{what}: all as it should be")


if __name__ == "__main__":
    main()
