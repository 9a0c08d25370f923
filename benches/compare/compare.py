"""paraffin beside its peers: reading in every way that counts, and whole runs.

    benches/compare/run [--data DIR] [--slide SLIDE] [--small SLIDE] [--rounds 3] [--only PART]...

Parts, each two to three minutes on a quiet machine:
  reading    tiles to RGB, warm: all peers, the floor of libjpeg-turbo, one and two threads
  cold       the same with an empty file cache
  grid       tiles that do not fit the blocks; blocks decoded / touched
  jpeg2000   a JPEG2000 slide, whole and at half resolution
  openslide  a format that OpenSlide alone reads
  startup    the tissue pass of a large slide; opening a slide
  scaled     what scaled decoding does to embeddings
  embed      the whole run against the bare model
  memory     peak memory of whole runs
  batch      six small slides: against the bare model, and (--torch-python) against loops in Python

Competitors take turns within each round, so that what else the machine does falls on all of them; each is held to as many
processors as it has threads. Rates are those of the best round. Progress goes to stderr, Markdown tables to stdout, all
figures to last.json.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import batch
import formats
import reading
import scaled
import whole
from common import DATA, HERE, Context, best, built, say
from peers import PEERS

PARTS = {
    "reading": reading.reading,
    "cold": reading.cold,
    "grid": reading.grid,
    "jpeg2000": formats.jpeg2000,
    "openslide": formats.openslide,
    "startup": formats.startup,
    "scaled": scaled.scaled,
    "embed": whole.embed,
    "memory": whole.memory,
    "batch": batch.batch,
}
NAMES = {
    "floor": "*floor: libjpeg-turbo, each needed block once, from memory*",
    "scaled-floor": "*floor at half size*",
    "mosaic": "paraffin, before resampling",
    "exact": "paraffin, exact",
    "scaled": "paraffin, `--decode scaled`",
    "bare": "bare ONNX session",
}


def machine():
    model = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    rustc = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True).stdout.split()
    return {
        "cpu": model[0] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "rustc": rustc[1] if len(rustc) > 1 else "unknown",
        "load": os.getloadavg()[0],
    }


def called(who):
    tool, _, how = who.partition(" ")
    if tool in PEERS and how:
        return f"{PEERS[tool][0]}, bare read" if how == "bare" else f"{PEERS[tool][0]} + Pillow"
    return NAMES.get(who, who)


def number(value):
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def tables(results):
    facts = results["machine"]
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB; rustc {facts['rustc']}; "
          f"load before the run {facts['load']:.1f}\n")
    for part in (results[name] for name in PARTS if name in results):
        print(f"### {part['title']}\n")
        rounds = part.get("rounds", {})
        if rounds:
            heads = [f"tiles/s, {threads} threads | per CPU second" for threads in rounds]
            print(f"| Way | {' | '.join(heads)} |\n|---|{'---:|' * 2 * len(heads)}")
            for who in next(iter(rounds.values())):
                cells = [number(best(r[who], clock)) for r in rounds.values() for clock in ("seconds", "cpu_seconds")]
                print(f"| {called(who)} | {' | '.join(cells)} |")
            print()
        if part.get("checks"):
            print("| Figure | by the clock | by CPU time | wanted | reached |\n|---|---:|---:|---:|---|")
            for c in part["checks"]:
                wanted = f"{'≤' if c['at_most'] else '≥'} {c['wanted']}" if c["wanted"] is not None else ""
                reached = {True: "yes", False: "**no**", None: ""}[c["reached"]]
                print(f"| {c['what']} | {number(c['wall'])} | {number(c['cpu'])} | {wanted} | {reached} |")
            print()
        if part.get("cosines"):
            print("| Cosine of features | tiles | least | mean | median |\n|---|---:|---:|---:|---:|")
            for c in part["cosines"]:
                print(f"| {c['what']} | {c['tiles']} | {c['min']:.6f} | {c['mean']:.6f} | {c['median']:.6f} |")
            print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="where slides are: composed/ and real/ [../shared/data]")
    parser.add_argument("--slide", type=Path, help="the benchmark slide [composed/medium_ycc420.svs]")
    parser.add_argument("--small", type=Path, help="second slide for peak memory [composed/small_ycc420.svs]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-python", type=Path, help="a Python with scripts/requirements-torch.txt [part left out]")
    parser.add_argument("--only", choices=PARTS, action="append")
    options = parser.parse_args()
    slides = [
        (given or options.data / "composed" / name).resolve()
        for given, name in ((options.slide, "medium_ycc420.svs"), (options.small, "small_ycc420.svs"))
    ]
    for slide in slides:
        if not slide.is_file():
            parser.error(f"no slide to measure with; give --data, or --slide and --small: {slide}")
    results = {"machine": machine(), "slide": slides[0].name, "small": slides[1].name}
    program = built("paraffin", "build", "--release", "--bin", "paraffin")
    bench = built("tiles", "bench", "--bench", "tiles", "--no-run")
    for slide in slides:
        slide.read_bytes()  # from now on it lies in the file cache, for everybody
    with tempfile.TemporaryDirectory(prefix="paraffin-compare-") as temporary:
        context = Context(*slides, options.data.resolve(), options.rounds, program, bench, Path(temporary),
                          options.torch_python)
        for name in options.only or PARTS:
            start = time.monotonic()
            results[name] = PARTS[name](context)
            results[name]["part_seconds"] = time.monotonic() - start
            say(f"{name} took {results[name]['part_seconds']:.0f} s")
            # After every part: what is measured stays measured.
            (HERE / "last.json").write_text(json.dumps(results, indent=1) + "\n")
    tables(results)


if __name__ == "__main__":
    main()
