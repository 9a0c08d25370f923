#!/usr/bin/env python3
"""Three small sites and held-back slides to try federated training on, embedded by paraffin itself.

  make_demo_sites.py FOLDER [--paraffin PROGRAM] [--other-contract]

Slides are composed: every tile is a piece of the real slide testdata/CMU-1-Small-Region.svs. A slide is positive where
a few of its tiles hold a lesion, drawn over the tissue: crowded dark nuclei, pale round gaps, or fine fibres. Each site
sees mostly one of the three (its case mix), has a colour of its own (its scanner and stains), and its own share of
positive slides. The held-back slides have all lesions, all colours, and as many positive as negative. FOLDER/<site>/
then holds slides/, labels.csv, site.toml, and paraffin's OUT; the held-back ones are in FOLDER/held-back/, without a
site.toml.

With --other-contract the last site is embedded once more, resampled in another way, to FOLDER/other/<site>.
"""

import argparse
import csv
import subprocess
from pathlib import Path

import numpy as np
import tifffile

ROOT = Path(__file__).resolve().parents[2]
MPP = 0.5
TILE = 224
COLUMNS, ROWS = 3, 2
LESIONS = ("nuclei", "gaps", "fibres")
# Name, its usual lesion, share of positive slides, factors on red, green and blue.
SITES = (
    ("amber", "nuclei", 0.35, (1.00, 0.97, 0.90)),
    ("birch", "gaps", 0.50, (0.93, 0.92, 1.00)),
    ("cedar", "fibres", 0.65, (0.98, 0.88, 0.95)),
)
SLIDES_TRAIN, SLIDES_VAL, SLIDES_HELD_BACK = 16, 4, 24
# How many positive slides of a site have its usual lesion.
USUAL = 0.9


def tissue() -> list[np.ndarray]:
    """Tiles of the real slide that are mostly tissue."""
    page = tifffile.imread(ROOT / "testdata/CMU-1-Small-Region.svs", key=0)
    tiles = []
    for y in range(0, page.shape[0] - TILE + 1, TILE):
        for x in range(0, page.shape[1] - TILE + 1, TILE):
            tile = page[y : y + TILE, x : x + TILE]
            if (tile.min(axis=2) < 215).mean() > 0.5:
                tiles.append(tile)
    return tiles


def discs(rng: np.random.Generator, tile: np.ndarray, n: int, radii: tuple[float, float], colour, alpha: float) -> None:
    """Draws round spots into a tile, in place."""
    yy, xx = np.mgrid[:TILE, :TILE]
    for _ in range(n):
        y, x, radius = rng.uniform(0, TILE), rng.uniform(0, TILE), rng.uniform(*radii)
        spot = (yy - y) ** 2 + (xx - x) ** 2 < radius**2
        tile[spot] = (1 - alpha) * tile[spot] + alpha * np.asarray(colour)


def with_lesion(rng: np.random.Generator, tile: np.ndarray, kind: str) -> np.ndarray:
    """The tile with a lesion over it."""
    tile = tile.astype(np.float32)
    if kind == "nuclei":
        discs(rng, tile, 90, (4, 7), (70, 40, 110), 0.85)
    elif kind == "gaps":
        discs(rng, tile, 14, (14, 24), (238, 232, 238), 0.95)
    else:
        yy, xx = np.mgrid[:TILE, :TILE]
        angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        wave = np.sin((xx * np.cos(angle) + yy * np.sin(angle)) * 2 * np.pi / 9 + phase)
        tile = tile * (1 - 0.30 * (wave[..., None] > 0.2))
    return tile


def slide(rng: np.random.Generator, tiles: list[np.ndarray], lesion: str | None, colour) -> np.ndarray:
    """A slide of ROWS x COLUMNS tiles, uint8; one or two of them have the lesion."""
    picked = [tiles[i] for i in rng.integers(0, len(tiles), ROWS * COLUMNS)]
    picked = [np.rot90(t, rng.integers(4)).astype(np.float32) for t in picked]
    if lesion:
        for i in rng.choice(len(picked), rng.integers(1, 3), replace=False):
            picked[i] = with_lesion(rng, picked[i], lesion)
    rows = [np.concatenate(picked[r * COLUMNS : (r + 1) * COLUMNS], axis=1) for r in range(ROWS)]
    return np.clip(np.concatenate(rows) * np.asarray(colour), 0, 255).astype(np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    """A tiled TIFF that states its resolution."""
    per_cm = 10_000 / MPP
    tifffile.imwrite(
        path, pixels, tile=(224, 224), compression="jpeg", compressionargs={"level": 90}, photometric="rgb",
        resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", metadata=None, datetime=False, software=False,
    )  # fmt: skip


def embed(paraffin: str, folder: Path, out: Path, *words: str) -> None:
    """What a site does."""
    command = [paraffin, "embed", str(folder / "slides"), "-o", str(out), "--tissue", "none", "--no-overviews"]
    subprocess.run([*command, "--progress", "none", *words], check=True, capture_output=True)


def cases(rng: np.random.Generator, site: tuple, number: int, splits: list[str]) -> list[tuple]:
    """What the slides of a site are: (id, label, split, lesion, colour)."""
    name, usual, share, colour = site
    labels = np.zeros(number, int)
    labels[: round(share * number)] = 1
    others = [kind for kind in LESIONS if kind != usual]
    out = []
    for i, label in enumerate(rng.permutation(labels)):
        lesion = usual if rng.random() < USUAL else others[rng.integers(2)]
        out.append((f"{name}-{i:02}", int(label), splits[i], lesion if label else None, colour))
    return out


def compose(folder: Path, found: list[tuple], tiles: list[np.ndarray], rng: np.random.Generator) -> None:
    """Writes slides and labels."""
    (folder / "slides").mkdir(parents=True)
    with open(folder / "labels.csv", "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["id", "label", "split"])
        for id_, label, split, lesion, colour in found:
            write(folder / "slides" / f"{id_}.tif", slide(rng, tiles, lesion, colour))
            rows.writerow([id_, label, split])


def main() -> None:
    """Makes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--paraffin", default="paraffin")
    parser.add_argument("--other-contract", action="store_true")
    args = parser.parse_args()
    tiles, rng = tissue(), np.random.default_rng(20261123)
    for site in SITES:
        folder = args.folder / site[0]
        splits = ["train"] * SLIDES_TRAIN + ["val"] * SLIDES_VAL
        compose(folder, cases(rng, site, len(splits), splits), tiles, rng)
        (folder / "site.toml").write_text(f'site = "{site[0]}"\nout = "OUT"\nlabels = "labels.csv"\n')
        embed(args.paraffin, folder, folder / "OUT")
    held = []
    for i in range(SLIDES_HELD_BACK):
        lesion = LESIONS[i // 2 % 3] if i % 2 else None
        held.append((f"held-{i:02}", i % 2, "test", lesion, SITES[i // 8 % 3][3]))
    compose(args.folder / "held-back", held, tiles, rng)
    embed(args.paraffin, args.folder / "held-back", args.folder / "held-back" / "OUT")
    if args.other_contract:
        name = SITES[-1][0]
        folder = args.folder / "other" / name
        folder.mkdir(parents=True)
        here = args.folder / name
        embed(args.paraffin, here, folder / "OUT", "--resample", "lanczos")
        (folder / "site.toml").write_text(
            f'site = "{name}"\nout = "OUT"\nlabels = "{(here / "labels.csv").resolve()}"\n'
        )


if __name__ == "__main__":
    main()
