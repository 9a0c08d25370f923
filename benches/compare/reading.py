"""Tiles from a slide to RGB in memory: warm, cold, and on grids that do not fit the blocks."""

from common import check, compared, competitor, forget, best, say, tiles_bench, tissue_tiles
from peers import PEERS

RGB = ["--px", "256", "--mpp", "0.5"]


def told(number, part, rounds):
    words = [f"{who} {best(results[-1:]):.0f}/s" for who, results in rounds.items()]
    say(f"{part}, round {number + 1}: " + ", ".join(words))


def peers_in_turn(context, slide, coords, side, rounds, threads, passes, tools=PEERS, ready=None):
    for tool in tools:
        result = competitor(
            "read", tool, slide, coords, side, 256, threads, ",".join(passes), "wait" if ready else "",
            processors=threads, ready=ready,
        )
        for each, took in result.items():
            rounds.setdefault(f"{tool} {each}", []).append(took)


def paraffin_in_turn(context, slide, count, rounds, threads, ways, *flags, ready=None, prefix=""):
    once = 1 if ready else 2
    lines = tiles_bench(context, slide, "--ways", ways, "--rounds", once, *flags, threads=threads, ready=ready)
    for way, line in lines.items():
        assert count in (None, line["tiles"]), "the bench and paraffin tiles found different tiles"
        if line["reader"].startswith("openslide"):
            # The work is done in other processes than the one whose processor time was read.
            line["cpu_seconds"] = None
        rounds.setdefault(prefix + way, []).append(line)


def reading(context):
    """512 level-0 px → 256 px, the same tissue tiles in the same order for everybody, on one and two threads."""
    import numpy as np

    coords, side = tissue_tiles(context, context.slide, "reading")
    count = len(np.load(coords))
    rounds = {1: {}, 2: {}}
    for number in range(context.rounds):
        for threads, so_far in rounds.items():
            ways = "floor,mosaic,exact,scaled-floor,scaled"
            paraffin_in_turn(context, context.slide, count, so_far, threads, ways, *RGB)
            peers_in_turn(context, context.slide, coords, side, so_far, threads, ["bare", "resized"])
            told(number, f"reading, {threads} threads", so_far)
    one, two = rounds[1], rounds[2]
    checks = [
        compared("before resampling / floor", 0.85, one["mosaic"], one["floor"]),
        compared("exact / openslide-python + Pillow", 10, one["exact"], one["openslide resized"]),
        compared("exact / cuCIM + Pillow", 4.5, one["exact"], one["cucim resized"]),
        compared("scaled / floor of scaled decoding", 0.85, one["scaled"], one["scaled-floor"]),
        compared("scaled / openslide-python + Pillow", 15, one["scaled"], one["openslide resized"]),
        compared("scaled / cuCIM, bare read", 1.4, one["scaled"], one["cucim bare"]),
        compared("scaled / fastslide, bare read", 2.2, one["scaled"], one["fastslide bare"]),
    ]
    for way in ("mosaic", "exact", "scaled"):
        # Processor time says nothing about two threads: only whether they stand in each other's way.
        checks.append(check(f"{way}, two threads / one", 1.9, best(two[way]) / best(one[way])))
    return {"title": f"Reading, {count} tiles of {side} → 256 px", "rounds": rounds, "checks": checks}


def cold(context):
    """As `reading`, but the slide's pages are taken out of the file cache before every timing."""
    import numpy as np

    coords, side = tissue_tiles(context, context.slide, "cold")
    count = len(np.load(coords))
    rounds, stayed = {1: {}, 2: {}}, []
    for number in range(context.rounds):
        for threads, so_far in rounds.items():
            how = {"ready": lambda: stayed.append(forget(context.slide))}
            paraffin_in_turn(context, context.slide, count, so_far, threads, "mosaic,exact,scaled", *RGB, **how)
            peers_in_turn(context, context.slide, coords, side, so_far, threads, ["resized"], **how)
            told(number, f"cold, {threads} threads", so_far)
    context.slide.read_bytes()
    checks = [
        compared("exact / openslide-python + Pillow", 10, rounds[1]["exact"], rounds[1]["openslide resized"]),
        compared("exact / cuCIM + Pillow", 4.5, rounds[1]["exact"], rounds[1]["cucim resized"]),
        check("share of the slide that stayed in the cache", 0.05, max(stayed), at_most=True),
    ]
    return {
        "title": f"Cold file cache, {count} tiles of {side} → 256 px", "rounds": rounds, "checks": checks, "stayed": stayed,
    }


GRIDS = {
    "256 px, on block borders": ["--px", "256"],
    "224 px": ["--px", "224"],
    "256 px, moved by 100, 60": ["--px", "256", "--origin", "100,60"],
    "256 px, overlapping by half": ["--px", "256", "--overlap", "128"],
}


def grid(context):
    """Tiles that do not fit the blocks, per pixel of the slide; and how often a block is decoded."""
    rounds = {1: {}}
    for number in range(context.rounds):
        for name, flags in GRIDS.items():
            words = ["--mpp", "0.5", *flags]
            prefix = f"{name}, "
            paraffin_in_turn(context, context.slide, None, rounds[1], 1, "mosaic,exact,scaled", *words, prefix=prefix)
        told(number, "grid", rounds[1])
    # Counted in pixels of level 0, so that tiles of different sizes compare.
    for results in rounds[1].values():
        for r in results:
            r["tiles"] = r["tiles"] * r["side_level0"] ** 2 / 512**2
    aligned, *unaligned, overlapping = GRIDS
    checks = []
    for way in ("mosaic", "exact", "scaled"):
        for name in unaligned:
            mine, theirs = rounds[1][f"{name}, {way}"], rounds[1][f"{aligned}, {way}"]
            checks.append(compared(f"{way}, {name} / {aligned}, per pixel", 0.8, mine, theirs))
    for name in (aligned, *unaligned, overlapping):
        found = [r["blocks_decoded"] / r["blocks_touched"] for r in rounds[1][f"{name}, exact"]]
        checks.append(check(f"{name}: blocks decoded / touched", 1.05, max(found), at_most=True))
    return {"title": "Grids (tiles of 512 level-0 px)", "rounds": rounds, "checks": checks}
