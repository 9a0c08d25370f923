"""Whole runs, slide to file: against the model alone, and their peak memory."""

import os
import statistics

from common import MODEL, best, check, competitor, cosine_row, h5_file, paraffin, say
from slides import large_slides


def embed(context):
    """The whole run, slide to file, against the model alone over tiles in memory: both have all cores."""
    import h5py
    import numpy as np

    cores = len(os.sched_getaffinity(0))
    tiles = context.temporary / "tiles.npy"

    def run(name, *flags):
        return paraffin(context, "embed", context.slide, "-o", context.temporary / name, *flags)

    run("first", "--decode", "exact")
    count = competitor("tiles", context.slide, h5_file(context.temporary / "first", "features_*"), 224, tiles)["tiles"]
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
        "bare": lambda number: competitor("bare", MODEL, tiles, *chosen, 0, context.temporary / "bare.npy"),
        "scaled": lambda number: run(f"scaled-{number}", "--decode", "scaled") | {"tiles": count},
    }
    rounds = {who: [] for who in turns}
    for number in range(context.rounds):
        for who in list(turns)[:: 1 if number % 2 else -1]:
            rounds[who].append(turns[who](number))
        say(f"embed, round {number + 1}: " + ", ".join(f"{k} {best(r[-1:]):.1f}/s" for k, r in rounds.items()))
    bare = np.load(context.temporary / "bare.npy").astype(np.float64)
    checks, cosines = [], []
    for decode in ("exact", "scaled"):
        with h5py.File(h5_file(context.temporary / f"{decode}-0", "features_*")) as f:
            cosines.append(cosine_row(f"paraffin embed --decode {decode} / bare session", f["features"][:], bare))
        # Both need all cores: a quiet moment that only one gets would decide a comparison of best rounds.
        wall = statistics.median(b["seconds"] / p["seconds"] for p, b in zip(rounds[decode], rounds["bare"]))
        checks.append(check(f"paraffin embed --decode {decode} / bare session (median of rounds)", 0.9, wall))
    return {
        "title": "Whole run, {} tiles; bare session: {} x {} threads, batch {}".format(count, *chosen),
        "bare_tried": {"{} x {} threads, batch {}".format(*way): best(tried[way]) for way in ways},
        "rounds": {"all": rounds},
        "checks": checks,
        "cosines": cosines,
    }


def memory(context):
    """Peak resident memory of whole runs on slides of three sizes; the largest, of 60,000 x 50,000 px, runs once."""
    _, _, large = next(large_slides(context.slide, context.temporary))
    rounds = {"large": [paraffin(context, "embed", large, "-o", context.temporary / "large")], "medium": [], "small": []}
    for number in range(min(context.rounds, 3)):
        for name, slide in (("medium", context.slide), ("small", context.small)):
            rounds[name].append(paraffin(context, "embed", slide, "-o", context.temporary / f"{name}-{number}"))
        say(f"memory, round {number + 1}: " + ", ".join(f"{k} {r[-1]['peak_mb']:.0f} MB" for k, r in rounds.items()))
    peak = {name: max(r["peak_mb"] for r in results) for name, results in rounds.items()}
    checks = [
        check("paraffin embed, peak memory in MB", 700, max(peak.values()), at_most=True),
        check("medium / small", 1.2, peak["medium"] / peak["small"], at_most=True),
    ]
    return {"title": "Peak memory", "runs": rounds, "peak_mb": peak, "checks": checks}
