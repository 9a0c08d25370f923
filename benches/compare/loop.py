"""What a lab runs today, in a process of its own: slide after slide, openslide-python and Pillow in a torch DataLoader, a
model over its batches, one HDF5 file a slide. Started by batch.py with a Python that has torch; one JSON line on stdout.

    loop.py weights FILE                                    random weights for timm's ViT-S/16, always the same
    loop.py run onnx|torch MODEL BATCH WORKERS PX OUT SLIDE=COORDS...

The clock starts when the libraries are imported and the model is loaded, which paraffin is not spared.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

ARCHITECTURE = "vit_small_patch16_224"
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def weights(path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(5)
    model = timm.create_model(ARCHITECTURE, num_classes=0)
    save_file(model.state_dict(), path)
    return {"tensors": len(model.state_dict())}


class Tiles(torch.utils.data.Dataset):
    def __init__(self, slide, coords, side, px):
        self.path, self.coords, self.side, self.px, self.slide = slide, coords, side, px, None

    def __len__(self):
        return len(self.coords)

    def __getitem__(self, row):
        import openslide
        from PIL import Image

        if self.slide is None:  # a handle does not survive the fork
            self.slide = openslide.OpenSlide(self.path)
        x, y = map(int, self.coords[row])
        tile = self.slide.read_region((x, y), 0, (self.side, self.side)).convert("RGB")
        return torch.from_numpy(np.array(tile.resize((self.px, self.px), Image.Resampling.BILINEAR)))


def embedder(runtime, model):
    cores = len(os.sched_getaffinity(0))
    if runtime == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda batch: session.run(None, {name: batch.numpy()})[0]
    import timm
    from safetensors.torch import load_file

    torch.set_num_threads(cores)
    vit = timm.create_model(ARCHITECTURE, num_classes=0).eval()
    vit.load_state_dict(load_file(model), strict=True)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))

    def embed(batch):
        with torch.inference_mode():
            return vit((batch.permute(0, 3, 1, 2).float() / 255 - mean) / std).numpy()

    return embed


def run(runtime, model, batch, workers, px, out, *pairs):
    import h5py

    embed = embedder(runtime, model)
    out = Path(out)
    out.mkdir()
    before, start = os.times(), time.perf_counter()
    count = 0
    for pair in pairs:
        slide, patches = pair.split("=")
        with h5py.File(patches) as f:
            coords, side = f["coords"][:], int(f["coords"].attrs["patch_size_level0"])
        loader = torch.utils.data.DataLoader(
            Tiles(slide, coords, side, int(px)), batch_size=int(batch), num_workers=int(workers), prefetch_factor=2,
        )
        features = np.concatenate([embed(tiles) for tiles in loader])
        with h5py.File(out / f"{Path(slide).stem}.h5", "w") as f:
            f["features"], f["coords"] = features, coords
        count += len(features)
    seconds, after = time.perf_counter() - start, os.times()
    cpu = sum(after[:4]) - sum(before[:4])  # of the loader's processes too: each has ended by now
    return {"tiles": count, "seconds": seconds, "cpu_seconds": cpu}


if __name__ == "__main__":
    print(json.dumps({"weights": weights, "run": run}[sys.argv[1]](*sys.argv[2:])))
