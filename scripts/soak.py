#!/usr/bin/env python3
"""Four workers on one OUT that are killed, stopped, held still and let go at random; OUT must end as a quiet run leaves it.

  soak.py [--short] [--minutes 10] [--slides 200] [--workers 4] [--seed N] [--paraffin PROGRAM]

Needs the Python of scripts/setup --dev. Workers that end are started again; when all slides are done OUT is compared and the next
round begins with an empty one, until the time is up. Compared are all files but the private ones, byte by byte; of leases,
workers and temporary files nothing may be left. Exit code 0 if all rounds were right.
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Done, stopped by a signal, killed, and stopped in the first moment, before the program could say what a signal means to it.
EXPECTED = {0, 75, -signal.SIGKILL, -signal.SIGTERM}


def link(source, target):
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


def make_slides(directory, count):
    """Hard links to a few files: distinct paths, so distinct ids (a symbolic link would be the same slide)."""
    directory.mkdir()
    generated = ROOT / "testdata/generated"
    sources = [generated / f"{name}.svs" for name in ("aperio_ycc420_256", "aperio_rgb_240", "aperio_ycc444_256", "aperio_comma")]
    copies = directory.parent / "sources"
    copies.mkdir()
    for i in range(count):
        source = sources[i % len(sources)]
        # A file has at most 65,000 links on ext4.
        copy = copies / f"{i % len(sources)}-{i // 40000}.svs"
        if not copy.exists():
            shutil.copy(source, copy)
        link(copy, directory / f"s{i:06}.svs")


def contents(out):
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.relative_to(out).parts[0] != "site-private")
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def leftovers(out):
    private = out / "site-private"
    found = [p for name in ("leases", "workers") for p in (private / name).rglob("*") if p.is_file()]
    return found + list(out.rglob("*.part"))


class Workers:
    def __init__(self, command, count, log):
        self.command, self.count, self.log = command, count, log
        self.running, self.still, self.tally = [], {}, {}

    def start(self):
        self.running.append(subprocess.Popen(self.command, stderr=self.log))

    def reap(self):
        """Codes of those that ended."""
        codes = []
        for worker in [w for w in self.running if w.poll() is not None]:
            self.running.remove(worker)
            self.still.pop(worker, None)
            codes.append(worker.returncode)
            self.count_up(f"ended with {worker.returncode}")
            if worker.returncode not in EXPECTED:
                sys.exit(f"a worker ended with {worker.returncode}; its words are in {self.log.name}")
        return codes

    def count_up(self, what):
        self.tally[what] = self.tally.get(what, 0) + 1

    def disturb(self, lease_seconds):
        now = time.monotonic()
        for worker in [w for w, until in self.still.items() if until <= now]:
            del self.still[worker]
            worker.send_signal(signal.SIGCONT)
        if not self.running:
            return
        worker = random.choice(self.running)
        kind = random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
        if worker in self.still and kind != signal.SIGKILL:
            return
        self.count_up(kind.name)
        worker.send_signal(kind)
        if kind == signal.SIGSTOP:
            # Half of them long enough to be taken for dead.
            self.still[worker] = now + random.uniform(0, 2) * lease_seconds

    def let_go(self):
        for worker in self.running:
            worker.send_signal(signal.SIGCONT)
        self.still.clear()

    def kill(self):
        for worker in self.running:
            worker.kill()
            worker.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="10 s over 16 slides")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--paraffin", default=str(ROOT / "target/release/paraffin"))
    args = parser.parse_args()
    if args.short:
        args.minutes, args.slides = 1 / 6, 16
    random.seed(args.seed)
    print(f"seed {args.seed}", flush=True)
    lease_seconds = 2
    with tempfile.TemporaryDirectory(prefix="paraffin-soak-") as directory:
        work = Path(directory)
        slides, quiet, out = work / "slides", work / "quiet", work / "out"
        make_slides(slides, args.slides)
        encoder = work / "tiny.onnx"
        subprocess.run([sys.executable, ROOT / "scripts/make_test_encoder.py", encoder], check=True)

        def command(out):
            words = [args.paraffin, "embed", slides, "-o", out, "--encoder", encoder, "--tissue", "none", "--threads", "1"]
            return [*map(str, words), "--lease-timeout", str(lease_seconds)]

        subprocess.run(command(quiet), check=True, stderr=subprocess.DEVNULL)
        expected = contents(quiet)
        assert len(expected) > 5 * args.slides, f"a quiet run left {len(expected)} files"
        end, rounds, tally = time.monotonic() + 60 * args.minutes, 0, {}
        while time.monotonic() < end:
            rounds += 1
            with open(work / "log", "wb") as log:
                workers = Workers(command(out), args.workers, log)
                workers.tally = tally
                try:
                    done = False
                    while not done:
                        while len(workers.running) < args.workers:
                            workers.start()
                        time.sleep(random.uniform(0, 0.3))
                        # 0 is said only when nothing was left to do.
                        done = 0 in workers.reap()
                        if not done and time.monotonic() < end:
                            workers.disturb(lease_seconds)
                        elif not done:
                            workers.let_go()
                    workers.let_go()
                    while workers.running:
                        time.sleep(0.05)
                        workers.reap()
                finally:
                    workers.kill()
            # What a worker left that was killed while another finished is cleared by the next command.
            subprocess.run(command(out), check=True, stderr=subprocess.DEVNULL)
            got = contents(out)
            differ = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
            left = leftovers(out)
            if differ or left:
                kept = Path(tempfile.mkdtemp(prefix="paraffin-soak-failed-"))
                shutil.copytree(work, kept, dirs_exist_ok=True)
                sys.exit(f"round {rounds}: these differ: {differ[:20]}; left behind: {left[:20]}; kept in {kept}")
            shutil.rmtree(out)
        print(f"{rounds} rounds of {args.slides} slides by {args.workers} workers, each OUT as a quiet run's:", tally)


if __name__ == "__main__":
    main()
