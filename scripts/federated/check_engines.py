#!/usr/bin/env python3
"""Trains three composed sites with both engines and prints JSON for the tests: what every model is worth on held-back
slides.

  check_engines.py FOLDER --paraffin PROGRAM

FOLDER is filled by make_demo_sites.py first. Both engines run the study, then a second one in which a site
has features of another contract, which both must refuse. Beside the global models stand what each site gets by itself
(as many rounds on its own slides alone) and the average of their rounds worked out here, without an engine.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fedmil import bags, task  # noqa: E402

STUDY = {
    "features": "20x_224px_0px_overlap/features_efficientnet-lite0",
    "sites": 3,
    "rounds": 3,
    "local-epochs": 3,
    "learning-rate": 0.001,
}


def run_both(folder: Path, name: str, sites: Path, paraffin: str) -> dict[str, tuple[int, str]]:
    """Exit code and words of a study under both engines, one after the other."""
    study = folder / "study.toml"
    study.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in STUDY.items()))
    found = {}
    for engine, words in {
        "flare": ["flare_job.py", study, "--simulate", sites],
        "flower": ["flower_simulation.py", study, sites],
    }.items():
        command = [sys.executable, HERE / words[0], *words[1:], "-o", folder / name / engine]
        done = subprocess.run(
            [str(word) for word in command],
            env=os.environ | {"PARAFFIN": paraffin},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        found[engine] = (done.returncode, done.stdout)
    return found


def without_engine(study: task.Study, sites: list[bags.Site], train: dict[str, bags.Bags]) -> tuple[dict, dict]:
    """The averaged model, and each site's own after as many rounds."""
    dim = train[sites[0].name].bags[0].features().shape[1]
    together, alone = study.initial(dim), {site.name: study.initial(dim) for site in sites}
    for round_ in range(1, study.rounds + 1):
        trained = []
        for site in sites:
            found = train[site.name].bags
            trained.append((task.train(site.name, study, together, found, round_)[0], len(found)))
            alone[site.name] = task.train(site.name, study, alone[site.name], found, round_)[0]
        slides = sum(n for _, n in trained)
        together = {k: sum(p[k] * np.float32(n / slides) for p, n in trained) for k in together}
    return together, alone


def apart(a: dict, b: dict) -> float:
    """Largest difference between two models' parameters."""
    return max(float(np.abs(a[k] - b[k]).max()) for k in a.keys() | b.keys())


def main() -> None:
    """Prints what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--paraffin", required=True)
    args = parser.parse_args()
    folder = args.folder.resolve()
    study = task.Study.of(STUDY)
    sites = [bags.Site.read(path) for path in sorted(folder.glob("sites/*/site.toml"))]
    train = {site.name: bags.load(site, study.features, "train") for site in sites}
    held_back = folder / "sites/held-back"
    test = bags.load(bags.Site("held-back", held_back / "OUT", held_back / "labels.csv"), study.features, "test").bags
    together, alone = without_engine(study, sites, train)
    found = {
        "alone": {site: task.evaluate(p, test) for site, p in alone.items()},
        "without_engine": task.evaluate(together, test),
        "held_back": len(test),
    }
    # The same sites, but the last one is the one that was embedded in another way.
    other = folder / "other"
    other.mkdir()
    for path in [site.out.parent for site in sites[:-1]] + list(folder.glob("sites/other/*")):
        (other / path.name).symlink_to(path)
    trained = run_both(folder, "trained", folder / "sites", args.paraffin)
    refused = run_both(folder, "refused", other, args.paraffin)
    for engine in ("flare", "flower"):
        code, words = trained[engine]
        found[engine] = {"exit": code, "words": words}
        model = folder / "trained" / engine / "global-model.safetensors"
        if model.exists():
            p, metadata = task.read(model)
            found[engine] |= {"metadata": metadata, "metrics": task.evaluate(p, test), "apart": apart(p, together)}
        code, words = refused[engine]
        model = folder / "refused" / engine / "global-model.safetensors"
        found[engine]["refused"] = {"exit": code, "words": words, "model": model.exists()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
