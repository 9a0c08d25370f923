#!/usr/bin/env python3
"""Golden values for unit tests, from other tools, to testdata/golden/.

  resample.json   Pillow's Image.resize of 48 x 40 noise: filter, box, size, sha256 of the RGB bytes
"""
import hashlib
import json
import pathlib

from PIL import Image

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "testdata" / "golden"


def noise(count):
    """The tests' generator: the upper byte of a 32-bit linear congruential sequence (Numerical Recipes)."""
    state, out = 1, bytearray()
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(state >> 24)
    return bytes(out)


def resample():
    picture = Image.frombytes("RGB", (48, 40), noise(48 * 40 * 3))
    boxes = [(0, 0, 48, 40), (0, 0, 32, 32), (3, 5, 35, 37), (0.5, 1.25, 30.25, 31), (8, 8, 13, 13)]
    for name, kind in [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC), ("lanczos", Image.LANCZOS)]:
        for box in boxes:
            for px in (7, 16, 21):
                out = picture.resize((px, px), kind, box=box)
                yield {"filter": name, "box": box, "px": px, "sha256": hashlib.sha256(out.tobytes()).hexdigest()}


def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(row) for row in resample())
    (GOLDEN / "resample.json").write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
