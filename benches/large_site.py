#!/usr/bin/env python3
"""How long verify, manifest and compat take on a site of many slides.

    .venv/bin/python benches/large_site.py [SLIDES [PROGRAM]]      1000 slides, target/release/paraffin

One slide of testdata/ is embedded; its files and records are repeated under other ids, which are in the files. Two such sites are
made; the second has half of the slides.
"""
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py

ROOT = Path(__file__).resolve().parent.parent
SLIDE = ROOT / "testdata/CMU-1-Small-Region.svs"


def repeat(small, out, slides):
    (grid,) = (p for p in small.iterdir() if (p / "records").is_dir())
    for part in ("contracts", "canaries"):
        for file in (grid / part).rglob("*.json"):
            to = out / grid.name / file.relative_to(grid)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())
    for record in (grid / "records").rglob("*.json"):
        told = json.loads(record.read_text())
        (entry,) = told["files"]
        whole = (grid / entry["path"]).read_bytes()
        for i in range(slides):
            name = f"slide{i:05}"
            path = entry["path"].replace(told["id"], name)
            to = out / grid.name / path
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(whole)
            with h5py.File(to, "r+") as file:
                file["coords"].attrs["name"] = name
            data = to.read_bytes()
            new = told | {"id": name, "files": [{"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]}
            to = out / grid.name / "records" / told["artefact"] / f"{name}.json"
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(json.dumps(new, indent=2))


def main():
    slides = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    program = sys.argv[2] if len(sys.argv) > 2 else ROOT / "target/release/paraffin"
    with tempfile.TemporaryDirectory() as directory:
        small, a, b = (Path(directory, name) for name in ("small", "a", "b"))
        run = lambda *words: subprocess.run([program, *words], check=True, capture_output=True, text=True)  # noqa: E731
        run("embed", SLIDE, "-o", small, "--no-overviews", "--progress", "none")
        repeat(small, a, slides)
        repeat(small, b, slides // 2)
        run("manifest", b)
        for words in (["manifest", a], ["verify", a], ["compat", a, b]):
            start = time.perf_counter()
            said = run(*words).stdout
            print(f"{words[0]:9}{time.perf_counter() - start:6.2f} s   {said.strip().splitlines()[-1].split(' (')[0]}")


if __name__ == "__main__":
    main()
