#!/usr/bin/env python3
"""Expected values for tests/openslide_worker.rs, read with openslide-python.

    pip install openslide-python==1.4.2 openslide-bin==4.0.1.2 numpy
    python3 scripts/golden_openslide.py ../shared/data      # the test's GOLDEN

One line per block of 512 x 512 level pixels: file, vendor, level, level width, level height, block column, block row,
sha256 of its RGB within the level, mean R, G, B. Where OpenSlide's downsample is not whole it interpolates; then the mean
absolute difference to the level as it lies in the file is told on stderr (the level read whole from (0, 0), where nothing
is interpolated).
"""

import ctypes
import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import openslide

SIDE = 512
FILES = {  # file: blocks (level, column, row)
    "real/ndpi/test3-TRITC-2-560.ndpi": [(0, 3, 4), (0, 7, 9), (1, 1, 2), (3, 0, 1), (6, 0, 0)],
    "real/generic-tiff/boxes.tiff": [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)],
    "real/dicom/openslide-boxes/boxes_0.dcm": [(0, 0, 0)],
    "real/dicom/camelyon-jpeg/multi_frame_jpeg_camelyon_challenge_image.dcm": [(0, 0, 0), (0, 2, 1)],
    "composed/philips.tiff": [(0, 5, 6), (1, 3, 3), (2, 1, 1), (4, 0, 0)],
    # Downsamples 4.0017 and 16.0296: interpolated, with partly transparent pixels at the seams of the file's blocks.
    "composed/small_ycc420.svs": [(0, 8, 5), (1, 0, 0), (1, 1, 1), (1, 3, 2), (2, 0, 0)],
}


def rgb(slide: openslide.OpenSlide, x_level0: int, y_level0: int, level: int, size: tuple[int, int]) -> np.ndarray:
    """A region over the background colour, from OpenSlide's own premultiplied words: Pillow's RGBA would round twice."""
    width, height = size
    words = (ctypes.c_uint32 * (width * height))()
    openslide.lowlevel._read_region(slide._osr, words, x_level0, y_level0, level, width, height)
    bgra = np.frombuffer(words, np.uint8).reshape(height, width, 4).astype(int)
    background = np.frombuffer(bytes.fromhex(slide.properties.get("openslide.background-color", "FFFFFF")), np.uint8)
    under = (background * (255 - bgra[..., 3:]) + 127) // 255
    return np.minimum(bgra[..., 2::-1] + under, 255).astype(np.uint8)


def main() -> None:
    data = Path(sys.argv[1])
    for name, blocks in FILES.items():
        with openslide.OpenSlide(data / name) as slide:
            vendor = slide.properties["openslide.vendor"]
            for level, col, row in blocks:
                width, height = slide.level_dimensions[level]
                x, y = col * SIDE, row * SIDE
                w, h = min(SIDE, width - x), min(SIDE, height - y)
                downsample = slide.level_downsamples[level]
                pixels = rgb(slide, math.floor(x * downsample + 0.5), math.floor(y * downsample + 0.5), level, (w, h))
                if level > 0 and max(width, height) <= 4096:  # openslide.c cuts larger regions at rounded positions
                    exact = rgb(slide, 0, 0, level, (width, height))[y : y + h, x : x + w]
                    difference = np.abs(pixels.astype(int) - exact)
                    if difference.any():
                        note = f"mean difference {difference.mean():.2f}, largest {difference.max()}"
                        print(f"{name} level {level} ({col}, {row}): {note}", file=sys.stderr)
                digest = hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()
                mean = "\t".join(f"{value:.2f}" for value in pixels.reshape(-1, 3).mean(axis=0))
                print(f"{name}\t{vendor}\t{level}\t{width}\t{height}\t{col}\t{row}\t{digest}\t{mean}")


if __name__ == "__main__":
    main()
