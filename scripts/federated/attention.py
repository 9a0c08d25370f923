#!/usr/bin/env python3
"""A trained model's attention and prediction for the slides of an OUT.

  attention.py MODEL.safetensors OUT -o scores.csv [--predictions predictions.csv] [ID ...]

scores.csv holds a line a tile, `id,x,y,score`: x and y are the tile's upper left corner in level-0 pixels, score is its
attention times the slide's number of tiles, so 1 is an even share. `paraffin heatmap OUT --scores scores.csv` draws it.
predictions.csv holds a line a slide, `id,probability`. Features of another contract than the model was trained on are
refused.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fedmil import bags, model, task  # noqa: E402


def slides(
    out: Path, features: str, contracts: list[str], ids: list[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(id, standardised features, coords) of the slides that are done, in alphabetical order."""
    grid, _, artefact = features.partition("/")
    for record in sorted((out / grid / "records" / artefact).glob("*.json")):
        if ids and record.stem not in ids:
            continue
        if json.loads(record.read_text())["contract_sha256"] not in contracts:
            raise bags.SiteError(f"the features of {record.stem} are of another contract than the model's")
        with h5py.File(out / features / f"{record.stem}.h5") as f:
            yield record.stem, model.standardise(f["features"][:].astype(np.float32)), f["coords"][:]


def main() -> None:
    """Reads the words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("-o", "--scores", type=Path, required=True)
    parser.add_argument("--predictions", type=Path)
    args = parser.parse_args()
    try:
        parameters, metadata = task.read(args.model)
        contracts = metadata["contract_sha256"].split(",")
        predictions, tiles = [], 0
        with open(args.scores, "w", newline="") as f:
            rows = csv.writer(f)
            rows.writerow(["id", "x", "y", "score"])
            for id_, x, coords in slides(args.out, metadata["features"], contracts, args.ids):
                if len(x) == 0:
                    print(f"{id_} has no tiles", file=sys.stderr)
                    continue
                logit, attention, _ = model.forward(parameters, x)
                rows.writerows(
                    (id_, *at, f"{a * len(x):.6g}") for at, a in zip(coords.tolist(), attention, strict=True)
                )
                predictions.append((id_, f"{model.sigmoid(logit):.6g}"))
                tiles += len(x)
        if args.predictions:
            with open(args.predictions, "w", newline="") as f:
                rows = csv.writer(f)
                rows.writerow(["id", "probability"])
                rows.writerows(predictions)
    except bags.SiteError as error:
        sys.exit(f"attention: {error}")
    if not predictions:
        sys.exit(f"attention: no slide of {metadata['features']} is done here")
    print(f"{len(predictions)} slides, {tiles} tiles", file=sys.stderr)


if __name__ == "__main__":
    main()
