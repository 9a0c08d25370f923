"""Writes one mask in the ways of other tools to a directory, and prints the files' names: used by tests/tissue.rs.

The slide has 3000 x 2000 px, the mask a rectangle of 900 x 700 px at (500, 400); pictures are a tenth of that.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

out = Path(sys.argv[1])
mask = np.zeros((200, 300), np.uint8)
mask[40:110, 50:140] = 1
tifffile.imwrite(out / "labels8.tif", mask, compression="zlib")
tifffile.imwrite(out / "labels16.tiff", (mask * 7).astype(">u2"), byteorder=">", compression="lzw")
tifffile.imwrite(out / "tiles.tif", mask * 255, tile=(64, 64), compression="zlib", predictor=True)
tifffile.imwrite(out / "rgb.tif", np.stack([mask * 0, mask * 200, mask * 0], 2), photometric="rgb")
Image.fromarray(mask * 255).convert("1").save(out / "bits.tif")
# A pyramid whose first page is too large to read: the next is taken.
with tifffile.TiffWriter(out / "pyramid.tif") as tif:
    tif.write(np.kron(mask, np.ones((25, 25), np.uint8)), tile=(512, 512), compression="zlib")
    tif.write(mask, compression="zlib", subfiletype=1)
Image.fromarray(mask * 255).save(out / "mask.png")
ring = [[500, 400], [1400, 400], [1400, 1100], [500, 1100], [500, 400]]
(out / "qupath.geojson").write_text(
    json.dumps([{"type": "Feature", "id": "x", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"objectType": "annotation"}}])
)
print("\n".join(["labels8.tif", "labels16.tiff", "tiles.tif", "rgb.tif", "bits.tif", "pyramid.tif", "mask.png", "qupath.geojson"]))
