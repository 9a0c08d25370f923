"""What all parts share: processes that are measured, file cache, rates and ratios."""

import ctypes
import json
import mmap
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = ROOT.parent / "shared/data"
MODEL = ROOT / "models/efficientnet-lite0.onnx"
# One thread is one thread, whatever a library would like.
ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VIPS_CONCURRENCY")
}


@dataclass
class Context:
    """What every part is given."""

    slide: Path
    small: Path
    data: Path  # slides: composed/ and real/ of shared/data
    rounds: int
    program: Path  # paraffin
    bench: Path  # benches/tiles.rs
    temporary: Path
    torch_python: Path | None  # a Python with torch, for the loops that use it


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


def built(target, *what):
    """The executable that cargo makes of this target; it may tell of others."""
    say("cargo " + " ".join(what))
    command = ["cargo", *what, "--message-format=json"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    messages = [json.loads(line) for line in out.splitlines()]
    (made,) = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == target]
    return Path(made)


def lines_of(command, processors=None, ready=None):
    """The JSON lines that a process prints. `processors` holds it to so many; at each line that says it is ready, `ready`
    is called before it may go on."""
    mine = sorted(os.sched_getaffinity(0))
    held = mine[-processors:] if processors else mine
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, **(ONE_THREAD if processors else {})}, preexec_fn=lambda: os.sched_setaffinity(0, held),
    )
    lines = []
    for line in map(json.loads, process.stdout):
        if line.get("ready"):
            ready()
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            lines.append(line)
    if process.wait() != 0:
        sys.exit(f"compare: this ended with {process.returncode}: {' '.join(map(str, command))}")
    return lines


def competitor(*words, **more):
    """competitor.py's answer, from a fresh process."""
    return lines_of([sys.executable, HERE / "competitor.py", *words], **more)[-1]


def json_line(command):
    """The JSON line that a program of another Python prints last."""
    return json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def tiles_bench(context, slide, *flags, threads=1, ready=None, **more):
    """benches/tiles.rs: its line for every way. Without `threads` it is held to no processor (its tissue pass takes all)."""
    command = [context.bench, "--bench", slide, "--threads", threads or 1, "--program", context.program, *flags]
    command += ["--wait"] if ready else []
    return {line["way"]: line for line in lines_of(command, processors=threads, ready=ready, **more)}


def paraffin(context, *words):
    """A run of paraffin under watch; its last words are printed when it fails."""
    log = context.temporary / "paraffin.log"
    command = [sys.executable, HERE / "competitor.py", "watch", log, context.program, *words]
    result = json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout)
    if result["exit"] != 0:
        sys.exit(f"compare: paraffin {words[0]} ended with {result['exit']}:\n{log.read_text()}")
    return result


def h5_file(out, folder):
    files = sorted(out.glob(f"*/{folder}/*.h5"))
    assert len(files) == 1, files
    return files[0]


def tissue_tiles(context, slide, name):
    """The corners of all tissue tiles of 256 px at 0.5 µm/px in the order paraffin reads them (a file), and their side in
    level-0 pixels."""
    import h5py
    import numpy as np

    out, coords = context.temporary / name, context.temporary / f"{name}.npy"
    paraffin(context, "tiles", slide, "-o", out, "--tile-px", "256", "--target-mpp", "0.5")
    with h5py.File(h5_file(out, "patches")) as f:
        np.save(coords, f["coords"][:])
        return coords, int(f["coords"].attrs["patch_size_level0"])


# --- the file cache --------------------------------------------------------------------------------------------------


def resident(path):
    """The share of a file that lies in the file cache."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        there = (ctypes.c_ubyte * pages)()
        libc = ctypes.CDLL(None, use_errno=True)
        # ctypes asks for a writable buffer, mmap gives none: the address comes through numpy.
        import numpy as np

        address = np.frombuffer(mapped, np.uint8)
        failed = libc.mincore(ctypes.c_void_p(address.ctypes.data), ctypes.c_size_t(len(mapped)), there)
        del address
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(page & 1 for page in there) / pages


def forget(path):
    """Takes a file out of the file cache; the share of it that stayed."""
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident(path)


# --- rates and ratios ------------------------------------------------------------------------------------------------


def best(results, clock="seconds"):
    """Highest tiles/s of the rounds; None where this clock was not read."""
    rates = [r["tiles"] / r[clock] for r in results if r.get(clock)]
    return max(rates, default=None)


def ratio(mine, theirs, clock="seconds"):
    a, b = best(mine, clock), best(theirs, clock)
    return a / b if a and b else None


def check(what, wanted, wall, cpu=None, at_most=False):
    """A line of what issue 3 asks for: reached, where it is so on both clocks that were read; nothing `wanted` is a figure
    without a promise."""
    values = [v for v in (wall, cpu) if v is not None]
    reached = all(v <= wanted if at_most else v >= wanted for v in values) if wanted is not None else None
    return {"what": what, "wall": wall, "cpu": cpu, "wanted": wanted, "at_most": at_most, "reached": reached}


def compared(what, wanted, mine, theirs):
    return check(what, wanted, ratio(mine, theirs), ratio(mine, theirs, "cpu_seconds"))


def cosine_row(what, mine, theirs):
    """Cosines of features, row by row."""
    import numpy as np

    mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
    each = (mine * theirs).sum(1) / (np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1))
    return {
        "what": what, "tiles": len(each), "min": float(each.min()), "mean": float(each.mean()),
        "median": float(np.median(each)),
    }
