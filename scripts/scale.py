#!/usr/bin/env python3
"""Measures what a large OUT costs: 2,000 small slides by 1, 2 and 4 workers, and 100,000 made records.

  scale.py [--slides 2000] [--records 100000] [--paraffin PROGRAM]

Needs the Python of scripts/setup --dev and, for its figures to mean anything, a quiet machine. Prints Markdown for
benches/RESULTS.md; ends with 1 where a slide was done twice or not at all, OUTs differ, a re-run costs over 2 ms a finished slide,
or a worker's second half takes over 5 % more memory than its first.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from soak import ROOT, contents, leftovers, make_slides

wrong = []


def check(right, words):
    if not right:
        wrong.append(words)
    return "yes" if right else "NO"


def resident_kb(pid):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


class Worker(threading.Thread):
    """A run whose events are read as they come: ids done, and the memory at each."""

    def __init__(self, command):
        super().__init__()
        self.command, self.done, self.memory = [*command, "--log-format", "json"], [], []
        self.start()

    def run(self):
        process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "slide-done":
                self.done.append(event["id"])
                self.memory.append(resident_kb(process.pid))
        self.code = process.wait()


def timed(command):
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def slides(args, work):
    make_slides(work / "slides", args.slides)
    encoder = work / "tiny.onnx"
    subprocess.run([sys.executable, ROOT / "scripts/make_test_encoder.py", encoder], check=True)

    def command(out):
        words = [args.paraffin, "embed", work / "slides", "-o", out, "--encoder", encoder, "--tissue", "none", "--threads", "1"]
        return [*map(str, words), "--no-overviews"]

    print(f"{args.slides} slides of about 9 tiles by an encoder of two convolutions, a thread a worker:\n")
    print("| workers | seconds | done twice | missing | equal to one worker's | memory after 100 slides, most in the first and in the second half | ≤ 5 % |")
    print("|---:|---:|---:|---:|---|---|---|")
    expected = None
    for count in (1, 2, 4):
        out = work / f"out{count}"
        started = time.perf_counter()
        workers = [Worker(command(out)) for _ in range(count)]
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - started
        check(all(w.code == 0 for w in workers), f"{count} workers: codes {[w.code for w in workers]}")
        ids = [i for w in workers for i in w.done]
        twice, missing = len(ids) - len(set(ids)), args.slides - len(set(ids))
        check(twice == 0 and missing == 0, f"{count} workers: {twice} twice, {missing} missing")
        got = contents(out)
        expected = expected or got
        same = check(got == expected and not leftovers(out), f"{count} workers leave another OUT")
        # Slides in work come and go by tens, so a moment says little; growth shows in what the halves of a run reach.
        halves = [(w.memory[: len(w.memory) // 2], w.memory[len(w.memory) // 2 :]) for w in workers if len(w.memory) > 100]
        start = max((w.memory[99] for w in workers if len(w.memory) > 100), default=0)
        first, second = (max((max(h[n]) for h in halves), default=0) for n in (0, 1))
        grown = max((max(b) / max(a) for a, b in halves), default=1)
        flat = check(grown <= 1.05, f"{count} workers: memory grew by {grown:.3f}")
        print(f"| {count} | {seconds:.1f} | {twice} | {missing} | {same} | {start / 1000:.0f}, {first / 1000:.0f}, {second / 1000:.0f} MB | {flat} |")
    out = work / "out1"
    one = work / "one"
    one.mkdir()
    shutil.copy(ROOT / "testdata/generated/aperio_comma.svs", one / "s000000.svs")
    bare = [*command(work / "out-one")]
    bare[2] = str(one)
    subprocess.run(bare, check=True, stderr=subprocess.DEVNULL)
    start = min(timed(bare) for _ in range(5))
    again = sorted(timed(command(out)) for _ in range(5))[2]
    each = 1000 * (again - start) / args.slides
    reached = check(each <= 2, f"a re-run costs {each:.2f} ms a finished slide")
    print(f"\nA re-run on {args.slides} finished slides: {again:.2f} s, {each:.3f} ms a slide over one of a single slide (≤ 2 ms: {reached}).")
    plan = [args.paraffin, "plan", str(work / "slides"), "-o", str(out), "--encoder", str(encoder), "--tissue", "none", "--no-probe"]
    first = timed(plan)
    print(f"`plan` of them: {first:.2f} s, {1000 * first / args.slides:.3f} ms a slide.")
    for n in (2, 3):
        shutil.rmtree(work / f"out{n}", ignore_errors=True)


def records(args, work):
    """OUT with as many made records, whose files are links to those of one slide."""
    source, out = work / "out1", work / "records"
    grid = next(p for p in source.iterdir() if (p / "records").is_dir())
    shutil.copytree(source / "site-private", out / "site-private", ignore=shutil.ignore_patterns("ids", "plans", "leases", "workers"))
    shutil.copytree(grid / "contracts", out / grid.name / "contracts")
    (out / "site-private/ids").mkdir(parents=True)
    print(f"\n{args.records} made records of each of two artefacts in one OUT:\n")
    started = time.perf_counter()
    for artefact in sorted(p.name for p in (grid / "records").iterdir()):
        template = json.loads((grid / "records" / artefact / "s000000.json").read_text())
        file = grid / template["files"][0]["path"]
        suffix = file.name.removeprefix("s000000")
        for directory in (out / grid.name / artefact, out / grid.name / "records" / artefact):
            directory.mkdir(parents=True)
        for i in range(args.records):
            name = f"r{i:07}"
            if i % 40000 == 0:
                shutil.copy(file, out / grid.name / artefact / f"{name}{suffix}")
                first = out / grid.name / artefact / f"{name}{suffix}"
            else:
                os.link(first, out / grid.name / artefact / f"{name}{suffix}")
            template["id"] = name
            template["files"][0]["path"] = f"{artefact}/{name}{suffix}"
            (out / grid.name / "records" / artefact / f"{name}.json").write_text(json.dumps(template))
    for i in range(args.records):
        (out / "site-private/ids" / f"r{i:07}.json").write_text("{}")
    print(f"(made in {time.perf_counter() - started:.0f} s)\n")
    print("| | seconds | ms a slide |")
    print("|---|---:|---:|")
    for what, words in [
        ("`status`: lists", ["status", str(out)]),
        ("`merge`: reads all records twice, table and manifest", ["merge", str(out), "-o", str(work / "table.csv")]),
    ]:
        seconds = timed([args.paraffin, *words])
        print(f"| {what} | {seconds:.2f} | {1000 * seconds / args.records:.3f} |")
    rows = sum(1 for _ in open(work / "table.csv")) - 1
    check(rows == 2 * args.records, f"the table has {rows} rows")

    # What a flat directory costs against one of 256 subdirectories: create, look up, list.
    print(f"\n| directory of {args.records} names | create, µs | stat, µs | list, s |")
    print("|---|---:|---:|---:|")
    names = [f"r{i * 7919 % args.records:07}.json" for i in range(args.records)]
    for what, place in [
        ("flat", lambda name: name),
        ("256 subdirectories", lambda name: f"{hash(name) % 256:02x}/{name}"),
    ]:
        root = work / f"layout-{what[:3]}"
        root.mkdir()
        paths = [str(root / place(name)) for name in names]
        for directory in {os.path.dirname(p) for p in paths}:
            os.makedirs(directory, exist_ok=True)
        started = time.perf_counter()
        for path in paths:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        created = time.perf_counter()
        for path in reversed(paths):
            os.stat(path)
        looked = time.perf_counter()
        listed = sum(len(files) for _, _, files in os.walk(root))
        ended = time.perf_counter()
        check(listed == args.records, f"{what}: {listed} names listed")
        each = 1e6 / args.records
        print(f"| {what} | {each * (created - started):.1f} | {each * (looked - created):.1f} | {ended - looked:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--paraffin", default=str(ROOT / "target/release/paraffin"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paraffin-scale-") as directory:
        slides(args, Path(directory))
        records(args, Path(directory))
    for words in wrong:
        print(f"wrong: {words}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
