"""paraffin beside its peers: reading, the whole run against the bare model, and peak memory.

    benches/compare/run [--slide SLIDE] [--small SLIDE] [--rounds 5] [--only reading|embed|memory]

Competitors take turns within each round, so that what else the machine does falls on all of them. Rates are those of the
best round. The ratio of whole runs is the median over the rounds: they need all cores, and a quiet moment that only one
competitor gets would decide a comparison of best rounds. Progress goes to stderr, Markdown tables to stdout, all figures
to last.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = ROOT.parent / "shared/data/composed"
MODEL = ROOT / "models/efficientnet-lite0.onnx"
# One thread is one thread, whatever a library would like.
ONE_THREAD = {n: "1" for n in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")}
WANTED = {"openslide": 6.0, "cucim": 2.5, "embed": 0.9, "memory_mb": 700.0, "memory_ratio": 1.2}
READERS = {"openslide": "openslide-python + Pillow", "cucim": "cuCIM + Pillow"}


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])


def competitor(*words, env=None):
    """competitor.py's answer, from a fresh process."""
    command = [sys.executable, HERE / "competitor.py", *map(str, words)]
    return last_json(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout)


def built(target, *what):
    """The executable that cargo makes of this target; it may tell of others."""
    say("cargo " + " ".join(what))
    command = ["cargo", *what, "--message-format=json"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    messages = [json.loads(line) for line in out.splitlines()]
    (made,) = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == target]
    return Path(made)


def paraffin(program, temporary, *words):
    """A run of paraffin under watch; its last words are in the answer when it fails."""
    log = temporary / "paraffin.log"
    result = competitor("watch", log, program, *words)
    if result["exit"] != 0:
        sys.exit(f"compare: paraffin {words[0]} ended with {result['exit']}:\n{log.read_text()}")
    return result


def h5_file(out, folder):
    files = sorted(out.glob(f"*/{folder}/*.h5"))
    assert len(files) == 1, files
    return files[0]


def best(results, clock="seconds"):
    """Highest tiles/s of the rounds."""
    return max(r["tiles"] / r[clock] for r in results)


def reading(options, program, temporary):
    """512 level-0 px → 256 px, one thread, the same tissue tiles in the same order for everybody."""
    import h5py
    import numpy as np

    out, coords = temporary / "tiles", temporary / "coords.npy"
    paraffin(program, temporary, "tiles", options.slide, "-o", out, "--tile-px", "256", "--target-mpp", "0.5")
    with h5py.File(h5_file(out, "patches")) as f:
        np.save(coords, f["coords"][:])
        side = int(f["coords"].attrs["patch_size_level0"])
        count = len(f["coords"])
    bench = built("tiles", "bench", "--bench", "tiles", "--no-run")
    rounds = {}
    for number in range(options.rounds):
        command = [bench, "--bench", options.slide, "--px", "256", "--mpp", "0.5", "--threads", "1", "--rounds", "2"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
        for line in map(json.loads, lines.splitlines()):
            assert line["tiles"] == count, "the bench and paraffin tiles found different tiles"
            # The bench tells wall time alone; it is held against the peers' processor time too, which favours them.
            seconds = count / line["tiles_per_s"]
            result = {"tiles": count, "seconds": seconds, "cpu_seconds": seconds}
            rounds.setdefault(f"paraffin {line['way']}", []).append(result)
        for tool in READERS:
            result = competitor("read", tool, options.slide, coords, side, 256, env={**os.environ, **ONE_THREAD})
            rounds.setdefault(tool, []).append(result)
        say(f"reading, round {number + 1}: " + ", ".join(f"{k} {best(r[-1:]):.0f}/s" for k, r in rounds.items()))
    rate = {k: {"wall": best(r), "cpu": best(r, "cpu_seconds")} for k, r in rounds.items()}
    ratio = {
        f"{way} / {tool}": {clock: rate[f"paraffin {way}"][clock] / rate[tool][clock] for clock in ("wall", "cpu")}
        for way in ("exact", "scaled")
        for tool in READERS
    }
    return {"tiles": count, "side_level0": side, "rounds": rounds, "tiles_per_s": rate, "ratio": ratio}


def embed(options, program, temporary):
    """The whole run, slide to file, against the model alone over tiles in memory: both have all cores."""
    import h5py
    import numpy as np

    cores = len(os.sched_getaffinity(0))
    tiles = temporary / "tiles.npy"

    def run(name, *flags):
        return paraffin(program, temporary, "embed", options.slide, "-o", temporary / name, *flags)

    run("first", "--decode", "exact")
    count = competitor("tiles", options.slide, h5_file(temporary / "first", "features_*"), 224, tiles)["tiles"]
    # (sessions, threads in each, batch): one session over all cores, or one single-threaded session a core.
    ways = [(1, cores, b) for b in (4, 16, 32)] + [(cores, 1, b) for b in (1, 4, 8)]
    tried = {way: [] for way in ways}
    for number in range(3):
        for way in ways:
            tried[way].append(competitor("bare", MODEL, tiles, *way, min(count, 192), ""))
    for way in ways:
        say("bare model, {} x {} threads, batch {}: {:.1f} tiles/s".format(*way, best(tried[way])))
    chosen = max(ways, key=lambda way: best(tried[way]))
    turns = {
        "exact": lambda number: run(f"exact-{number}", "--decode", "exact") | {"tiles": count},
        "bare": lambda number: competitor("bare", MODEL, tiles, *chosen, 0, temporary / "bare.npy"),
        "scaled": lambda number: run(f"scaled-{number}", "--decode", "scaled") | {"tiles": count},
    }
    rounds = {who: [] for who in turns}
    for number in range(options.rounds):
        for who in list(turns)[:: 1 if number % 2 else -1]:
            rounds[who].append(turns[who](number))
        say(f"embed, round {number + 1}: " + ", ".join(f"{k} {best(r[-1:]):.1f}/s" for k, r in rounds.items()))
    bare = np.load(temporary / "bare.npy").astype(np.float64)
    cosine, ratio = {}, {}
    for decode in ("exact", "scaled"):
        with h5py.File(h5_file(temporary / f"{decode}-0", "features_*")) as f:
            mine = f["features"][:].astype(np.float64)
        each = (mine * bare).sum(1) / (np.linalg.norm(mine, axis=1) * np.linalg.norm(bare, axis=1))
        cosine[decode] = {"min": float(each.min()), "median": float(np.median(each))}
        ratio[decode] = {
            "median": statistics.median(b["seconds"] / p["seconds"] for p, b in zip(rounds[decode], rounds["bare"])),
            "cpu": best(rounds[decode], "cpu_seconds") / best(rounds["bare"], "cpu_seconds"),
        }
    return {
        "tiles": count,
        "bare_way": {"sessions": chosen[0], "threads": chosen[1], "batch": chosen[2]},
        "bare_tried": {"{} x {} threads, batch {}".format(*way): best(tried[way]) for way in ways},
        "rounds": rounds,
        "tiles_per_s": {k: {"wall": best(r), "cpu": best(r, "cpu_seconds")} for k, r in rounds.items()},
        "ratio": ratio,
        "cosine": cosine,
    }


def memory(options, program, temporary):
    """Peak resident memory of whole runs on a large and a small slide."""
    rounds = {"medium": [], "small": []}
    for number in range(min(options.rounds, 3)):
        for name, slide in (("medium", options.slide), ("small", options.small)):
            rounds[name].append(paraffin(program, temporary, "embed", slide, "-o", temporary / f"{name}-{number}"))
        say(f"memory, round {number + 1}: " + ", ".join(f"{k} {r[-1]['peak_mb']:.0f} MB" for k, r in rounds.items()))
    peak = {name: max(r["peak_mb"] for r in results) for name, results in rounds.items()}
    return {"rounds": rounds, "peak_mb": peak, "ratio": max(peak.values()) / min(peak.values())}


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


def verdict(ok):
    return "yes" if ok else "**no**"


def tables(results):
    facts = results["machine"]
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB; rustc {facts['rustc']}; "
          f"load before the run {facts['load']:.1f}\n")
    if "reading" in results:
        part = results["reading"]
        print(f"| Reading, one thread, {part['tiles']} tiles of {part['side_level0']} → 256 px | tiles/s "
              "| tiles per CPU second |\n|---|---:|---:|")
        for name, rate in part["tiles_per_s"].items():
            cpu = f"{rate['cpu']:.0f}" if name in READERS else ""
            print(f"| {READERS.get(name, name)} | {rate['wall']:.0f} | {cpu} |")
        print("\n| Ratio | to wall time | to the peer's CPU time | wanted | reached |\n|---|---:|---:|---:|---|")
        for name, ratio in part["ratio"].items():
            way, tool = name.split(" / ")
            wanted, ok = WANTED[tool], min(ratio.values()) >= WANTED[tool]
            print(f"| {way} / {READERS[tool]} | {ratio['wall']:.1f} | {ratio['cpu']:.1f} | {wanted} | {verdict(ok)} |")
        print()
    if "embed" in results:
        part = results["embed"]
        way, rate = part["bare_way"], part["tiles_per_s"]
        names = {
            "exact": "`paraffin embed`, whole run",
            "scaled": "`paraffin embed --decode scaled`",
            "bare": f"bare ONNX session, {way['sessions']} × {way['threads']} threads, batch {way['batch']}",
        }
        print(f"| {part['tiles']} tiles, all cores | tiles/s | tiles per CPU second |\n|---|---:|---:|")
        for who, name in names.items():
            print(f"| {name} | {rate[who]['wall']:.1f} | {rate[who]['cpu']:.1f} |")
        print("\n| Ratio to the bare session | median of rounds | by CPU time | wanted | reached |")
        print("|---|---:|---:|---:|---|")
        for who, ratio in part["ratio"].items():
            print(f"| {names[who]} | {ratio['median']:.2f} | {ratio['cpu']:.2f} "
                  f"| {WANTED['embed']} | {verdict(ratio['median'] >= WANTED['embed'])} |")
        print("\n| Features against the bare session's | least cosine | median |\n|---|---:|---:|")
        for who, cosine in part["cosine"].items():
            print(f"| {names[who]} | {cosine['min']:.6f} | {cosine['median']:.6f} |")
        print()
    if "memory" in results:
        part = results["memory"]
        peak = part["peak_mb"]
        ok = max(peak.values()) < WANTED["memory_mb"] and part["ratio"] <= WANTED["memory_ratio"]
        print("| Peak memory of `paraffin embed` | medium | small | ratio | wanted | reached |")
        print("|---|---:|---:|---:|---:|---|")
        print(f"| | {peak['medium']:.0f} MB | {peak['small']:.0f} MB | {part['ratio']:.2f} "
              f"| < {WANTED['memory_mb']:.0f} MB, ≤ {WANTED['memory_ratio']} | {verdict(ok)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, default=DATA / "medium_ycc420.svs")
    parser.add_argument("--small", type=Path, default=DATA / "small_ycc420.svs", help="second slide for peak memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["reading", "embed", "memory"], action="append")
    options = parser.parse_args()
    options.slide, options.small = slides = [options.slide.resolve(), options.small.resolve()]
    for slide in slides:
        if not slide.is_file():
            parser.error(f"no slide to measure with; give --slide and --small: {slide}")
    parts = options.only or ["reading", "embed", "memory"]
    results = {"machine": machine(), "slide": options.slide.name, "small": options.small.name}
    program = built("paraffin", "build", "--release", "--bin", "paraffin")
    for slide in slides:
        slide.read_bytes()  # from now on it lies in the file cache, for everybody
    with tempfile.TemporaryDirectory(prefix="paraffin-compare-") as temporary:
        for part in parts:
            results[part] = globals()[part](options, program, Path(temporary))
    (HERE / "last.json").write_text(json.dumps(results, indent=1) + "\n")
    tables(results)


if __name__ == "__main__":
    main()
