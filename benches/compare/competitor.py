"""One measurement in a process of its own; the result is one JSON line. compare.py starts these.

read    tiles a second from a slide to RGB of the model's size in memory, by a peer, in one or more processes of one thread
tiles   cuts the tiles of a feature file with openslide-python + Pillow and keeps them for `bare`
bare    the ONNX session alone, over tiles that already lie in memory
watch   runs a command: wall time, processor time, peak memory (this process stays small, because a child's peak starts
        at what its parent held)

`cpu_seconds` is processor time of all threads. On a machine that others use too it is the steadier of the two clocks.
"""

import json
import multiprocessing
import os
import sys
import threading
import time

# Longest wait for the other processes of a measurement.
PATIENCE_S = 300


class Clock:
    def __enter__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


def read(tool, slide, coords, side, px, workers, passes, wait):
    """Reads all tiles once per pass: 'bare' (what the library calls reading a region) or 'resized' (and to `px` by Pillow).
    Each process has a run of tiles, opens the slide for itself, and has read the first eight before the clock starts."""
    import numpy as np

    coords, side, px, workers = np.load(coords), int(side), int(px), int(workers)
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(workers + 1), context.SimpleQueue()

    def work(share):
        from PIL import Image

        from peers import PEERS

        try:
            for each in passes.split(","):
                region, picture = PEERS[tool][1](slide)
                for x, y in share[:8]:
                    picture(region(x, y, side))
                gate.wait(PATIENCE_S)
                gate.wait(PATIENCE_S)
                with Clock() as clock:
                    if each == "bare":
                        for x, y in share:
                            region(x, y, side)
                    else:
                        for x, y in share:
                            tile = picture(region(x, y, side)).resize((px, px), Image.Resampling.BILINEAR)
                            pixels = np.asarray(tile)
                        assert pixels.shape == (px, px, 3)
                results.put((time.perf_counter(), clock.cpu))
                gate.wait(PATIENCE_S)
        except BaseException:
            gate.abort()
            raise

    shares = [share.tolist() for share in np.array_split(coords, workers)]
    processes = [context.Process(target=work, args=(share,)) for share in shares]
    for process in processes:
        process.start()
    answer = {}
    for each in passes.split(","):
        gate.wait(PATIENCE_S)
        if wait == "wait":
            print(json.dumps({"ready": True}), flush=True)
            sys.stdin.readline()
        start = time.perf_counter()
        gate.wait(PATIENCE_S)
        gate.wait(PATIENCE_S)
        # One clock for all processes: Linux's monotonic one.
        ends, cpu = zip(*(results.get() for _ in processes))
        answer[each] = {"tiles": len(coords), "seconds": max(ends) - start, "cpu_seconds": sum(cpu)}
    for process in processes:
        process.join()
    return answer


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
