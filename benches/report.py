#!/usr/bin/env python3
"""Times the report of a synthetic cohort and the viewer's tiles.

    cargo build --release
    .venv/bin/python benches/report.py                        # 1,000 slides; the viewer on ../shared/data's slides
    .venv/bin/python benches/report.py --slides 100 --program target/debug/paraffin

The cohort has small feature files of the real kind (scripts/make_cohort.py). The viewer is asked for 600 tiles at random
places of random levels, one after the other and over six connections as a browser has them; opening the slide and its
low-power picture are told apart. Nothing is cached on either side but by the operating system.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches/compare"))
from slides import large_slides  # noqa: E402

COMPOSED = ROOT / "../shared/data/composed"


def report(program, folder, slides, tiles, dim):
    out = folder / "cohort"
    subprocess.run([sys.executable, ROOT / "scripts/make_cohort.py", out, "--slides", str(slides), "--tiles", str(tiles),
                    "--dim", str(dim)], check=True, stdout=subprocess.DEVNULL)
    for more in ([], ["--shareable"]):
        begun = time.monotonic()
        child = subprocess.Popen([program, "report", out, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        path = child.stdout.readline().strip()
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0, "the report failed"
        took, size = time.monotonic() - begun, pathlib.Path(path).stat().st_size
        cpu = usage.ru_utime + usage.ru_stime
        print(f"report of {slides} slides{' ' if more else ''}{' '.join(more)}: {took:.1f} s, {cpu:.1f} s of processor time, "
              f"{size / 1e6:.1f} MB, peak memory {usage.ru_maxrss / 1024:.0f} MiB", flush=True)


class Connection(threading.local):
    client = None


def processor_seconds(pid):
    """What a process has computed so far: the same on a busy machine."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def view(program, name, slide, count=600):
    process = subprocess.Popen([program, "view", slide], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = urllib.parse.urlsplit(process.stdout.readline().strip())
        local = Connection()

        def get(path):
            begun = time.monotonic()
            if local.client is None:
                local.client = http.client.HTTPConnection(url.netloc, timeout=600)
            local.client.request("GET", url.path + path)
            answer = local.client.getresponse()
            body = answer.read()
            assert answer.status == 200, (path, answer.status, body)
            return time.monotonic() - begun, body

        about = json.loads(get("slide/0/about.json")[1])
        side, finest = about["tile"], about["levels"]
        opening, _ = get(f"slide/0/{finest - 12}/0_0.jpg" if finest > 20 else "slide/0/8/0_0.jpg")
        dice = random.Random(1)
        paths = []
        while len(paths) < count:
            level = dice.randint(max(9, finest - 7), finest)
            scale = 2 ** (finest - level)
            columns, rows = (-(-about[k] // (scale * side)) for k in ("width", "height"))
            paths.append(f"slide/0/{level}/{dice.randrange(columns)}_{dice.randrange(rows)}.jpg")
        before = processor_seconds(process.pid)
        alone = sorted(get(path)[0] for path in paths)
        spent = processor_seconds(process.pid) - before
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            six = sorted(took for took, _ in pool.map(get, paths))
        p = lambda times, share: 1000 * times[int(share * (len(times) - 1))]
        print(f"view {name}: {about['width']} x {about['height']} px, first picture {opening:.2f} s; {1000 * spent / count:.1f} ms "
              f"of processor time a tile; alone p50 {p(alone, 0.5):.1f}, p95 {p(alone, 0.95):.1f}, max {p(alone, 1):.1f} ms; six at a time p50 {p(six, 0.5):.1f}, "
              f"p95 {p(six, 0.95):.1f}, max {p(six, 1):.1f} ms", flush=True)
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/paraffin")
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--tiles", type=int, default=300, help="per slide, about")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--only", choices=["report", "view"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if args.only != "view":
            report(args.program, folder, args.slides, args.tiles, args.dim)
        if args.only == "report":
            return
        view(args.program, "testdata", ROOT / "testdata/CMU-1-Small-Region.svs")
        if not COMPOSED.is_dir():
            print("no ../shared/data here: the viewer was measured on the small slide alone")
            return
        for name in ("medium_ycc420.svs", "crop_lzw.svs", "small_j2k33005.svs"):
            view(args.program, name, COMPOSED / name)
        for name, _, path in large_slides(COMPOSED / "medium_ycc420.svs", folder):
            view(args.program, f"large, {name}", path)


if __name__ == "__main__":
    main()
