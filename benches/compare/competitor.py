"""One measurement in a process of its own; the result is one JSON line. compare.py starts these.

read    tiles a second from a slide to RGB of the model's size in memory, by a peer, on one thread
tiles   cuts the tiles of a feature file with openslide-python + Pillow and keeps them for `bare`
bare    the ONNX session alone, over tiles that already lie in memory
watch   runs a command: wall time, processor time, peak memory (this process stays small, because a child's peak starts
        at what its parent held)

`cpu_seconds` is processor time of all threads. On a machine that others use too it is the steadier of the two clocks.
"""

import json
import os
import sys
import threading
import time


class Clock:
    def __enter__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


def read(tool, slide, coords, side, px):
    import numpy as np
    from PIL import Image

    coords, side, px = np.load(coords).tolist(), int(side), int(px)
    if tool == "cucim":
        from cucim import CuImage

        image = CuImage(slide)

        def tile(x, y):
            # Without num_workers the calling thread decodes; any number, 1 too, hands over to a pool and is slower.
            return Image.fromarray(np.asarray(image.read_region((x, y), (side, side), level=0)))
    else:
        import openslide

        image = openslide.OpenSlide(slide)

        def tile(x, y):
            return image.read_region((x, y), 0, (side, side)).convert("RGB")

    for x, y in coords[:8]:
        tile(x, y)
    with Clock() as clock:
        for x, y in coords:
            pixels = np.asarray(tile(x, y).resize((px, px), Image.Resampling.BILINEAR))
    assert pixels.shape == (px, px, 3)
    return {"tiles": len(coords), "seconds": clock.wall, "cpu_seconds": clock.cpu}


def tiles(slide, features, px, out):
    import h5py
    import numpy as np
    import openslide
    from PIL import Image

    px = int(px)
    with h5py.File(features) as f:
        coords, side = f["coords"][:], int(f["coords"].attrs["patch_size_level0"])
    image = openslide.OpenSlide(slide)
    pixels = np.empty((len(coords), px, px, 3), np.uint8)
    for row, (x, y) in enumerate(coords.tolist()):
        tile = image.read_region((x, y), 0, (side, side))
        # Outside the slide OpenSlide is transparent, and convert("RGB") alone would make it black.
        tile = Image.alpha_composite(Image.new("RGBA", tile.size, "white"), tile).convert("RGB")
        pixels[row] = np.asarray(tile.resize((px, px), Image.Resampling.BILINEAR))
    np.save(out, pixels)
    return {"tiles": len(coords), "patch_size_level0": side}


def bare(model, tiles, sessions, threads, batch, limit, out):
    import numpy as np
    import onnxruntime

    sessions, threads, batch, limit = map(int, (sessions, threads, batch, limit))
    pixels = np.load(tiles)
    pixels = pixels[: limit or len(pixels)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    models = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(sessions)
    ]
    name = models[0].get_inputs()[0].name
    features = np.empty((len(pixels), models[0].run(None, {name: pixels[:1]})[0].shape[1]), np.float32)
    for session in models:
        session.run(None, {name: pixels[:batch]})
    starts, lock = iter(range(0, len(pixels), batch)), threading.Lock()

    def work(session):
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            features[start : start + batch] = session.run(None, {name: pixels[start : start + batch]})[0]

    workers = [threading.Thread(target=work, args=(session,)) for session in models]
    with Clock() as clock:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if out:
        np.save(out, features)
    return {"tiles": len(pixels), "seconds": clock.wall, "cpu_seconds": clock.cpu}


def watch(log, *command):
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.execv(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    return {
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
    }


if __name__ == "__main__":
    way = {"read": read, "tiles": tiles, "bare": bare, "watch": watch}[sys.argv[1]]
    print(json.dumps(way(*sys.argv[2:])))
