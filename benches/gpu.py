"""The measuring part of gpu.sh."""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[1]
PARAFFIN = ROOT / "target/release/paraffin"


def providers(device):
    if device == "cpu":
        return ["CPUExecutionProvider"]
    number = int(device.partition(":")[2].split(",")[0] or 0)
    return [("CUDAExecutionProvider", {"device_id": number, "use_tf32": 0})]


def session(path, device):
    made = onnxruntime.InferenceSession(str(path), providers=providers(device))
    wanted = providers(device)[0]
    wanted = wanted if isinstance(wanted, str) else wanted[0]
    if made.get_providers()[0] != wanted:
        sys.exit(f"gpu: {wanted} is not usable here; 'paraffin doctor' tells what is missing")
    return made


def bound(made, values, device):
    """A function that runs the session on values that lie on the card already."""
    kind, _, number = device.partition(":")
    kind = "cpu" if kind == "cpu" else "cuda"
    number = int(number.split(",")[0] or 0) if number else 0
    binding = made.io_binding()
    binding.bind_ortvalue_input(made.get_inputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(values, kind, number))
    binding.bind_output(made.get_outputs()[0].name, kind, number)

    def run():
        made.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def rate(run, seconds):
    """Runs a second, the best of 5 parts."""
    for _ in range(3):
        run()
    best = 0
    for _ in range(5):
        count, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds / 5 or count == 0:
            run()
            count += 1
        best = max(best, count / took)
    return best


def matrix_rate(work, device, seconds):
    """Operations a second of one large product, fp16 on a card and fp32 on a processor."""
    side, kind = (1024, np.float32) if device == "cpu" else (8192, np.float16)
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    weights = helper.make_tensor("b", dtype, [side, side], np.random.default_rng(1).normal(0, 0.01, (side, side)).astype(kind).tobytes(), True)
    values = [helper.make_tensor_value_info(n, dtype, [side, side]) for n in "ac"]
    graph = helper.make_graph([node], "product", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = work / "product.onnx"
    onnx.save(model, path)
    run = bound(session(path, device), np.ones((side, side), kind), device)
    return 2 * side**3 * rate(run, seconds)


def operations(card):
    """Multiplications and additions of a tile: products of the blocks, the patches, and attention."""
    vit, px = card["architecture"]["vit"], card["input"]["px"]
    width, hidden = vit["width"], vit["hidden"]
    patches = (px // vit["patch"]) ** 2
    tokens = patches + 1 + vit.get("registers", 0)
    mlp = (3 if vit["mlp"] == "swiglu" else 2) * width * hidden
    block = tokens * (4 * width * width + mlp) + 2 * tokens * tokens * width
    return 2 * (vit["depth"] * block + patches * 3 * vit["patch"] ** 2 * width)


class Busy(threading.Thread):
    """The card's own count of the time in which it computed, as nvidia-smi tells it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen, self.over = [], threading.Event()

    def run(self):
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self.over.wait(0.25):
            try:
                lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            except (OSError, subprocess.CalledProcessError):
                return
            self.seen.append(np.mean([float(v) for v in lines if v.isdigit()] or [0]))

    def share(self):
        self.over.set()
        self.join()
        # Without the start, in which the model is loaded.
        values = self.seen[len(self.seen) // 5 :]
        return f"{np.mean(values):.0f} %" if values else "no nvidia-smi"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dev-python", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="vit-l", choices=["vit-s", "vit-l", "vit-h"])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    work, device = options.work, options.device
    batch = options.batch or (1 if device == "cpu" else 64)
    precision = "fp32" if device == "cpu" else "fp16"

    weights, model_dir = work / options.model, work / f"{options.model}-onnx"
    if not (weights / "weights.safetensors").exists():
        subprocess.run([options.dev_python, ROOT / "scripts/make_parity_encoder.py", options.model, weights], check=True)
    # TensorRT does not know ONNX Runtime's own attention.
    attention = "plain" if device.startswith("tensorrt") else "mha"
    subprocess.run(
        [options.dev_python, ROOT / "scripts/export_onnx.py", weights / "card.toml", "--weights", weights / "weights.safetensors",
         "-o", model_dir, "--precision", precision, "--attention", attention], check=True,
    )  # fmt: skip
    card = tomllib.loads((weights / "card.toml").read_text())
    (model,) = model_dir.glob("*.fp16.onnx" if precision == "fp16" else "*random.onnx")

    px = card["input"]["px"]
    tiles = np.random.default_rng(2).integers(0, 256, (batch, px, px, 3), np.uint8)
    bare_session = session(model, device)
    on_card = batch * rate(bound(bare_session, tiles, device), options.seconds)
    name = bare_session.get_inputs()[0].name
    from_memory = batch * rate(lambda: bare_session.run(None, {name: tiles}), options.seconds)
    del bare_session
    products = matrix_rate(work, device, options.seconds / 2)
    words = ["encoders", "check", model, "--device", device.split(",")[0], "--batch-size", str(batch), "--json"]
    if device == "cpu":
        words += ["--threads", "1"]
    checked = json.loads(subprocess.run([PARAFFIN, *words], capture_output=True, text=True, check=True).stdout)

    slides = options.slides
    if not slides:
        # About `seconds` of work: the slide gives some 100 tiles.
        folder = work / "slides"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number in range(max(2, min(400, int(on_card * options.seconds / 100)))):
            (folder / f"copy{number:03}.svs").symlink_to(ROOT / "testdata/CMU-1-Small-Region.svs")
        slides = [folder]
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    busy = Busy()
    busy.start()
    start = time.perf_counter()
    words = ["embed", *slides, "-o", out, "--encoder", model, "--device", device, "--batch-size", str(batch), "--progress", "lines"]
    said = subprocess.run([PARAFFIN, *words], stderr=subprocess.PIPE, text=True)
    whole = time.perf_counter() - start
    share = busy.share()
    if said.returncode != 0:
        sys.exit(f"gpu: the run failed:\n{said.stderr}")
    lines = said.stderr.splitlines()
    done = int(next(line for line in lines if " tiles in " in line and "done" in line).split(": ")[-1].split()[0])
    waited = next(line for line in lines if line.startswith("waited: "))
    cards = 1 if device == "cpu" else len(device.partition(":")[2].split(",")) if ":" in device else 1

    print(f"\n{options.model}, {precision}, {px} px, batch {batch}, on {device}; ONNX Runtime {onnxruntime.__version__}\n")
    print("| | tiles/s | ratio |\n|---|---:|---:|")
    print(f"| bare session, tiles on the device | {on_card:.1f} | 1 |")
    print(f"| bare session, tiles in memory | {from_memory:.1f} | {from_memory / on_card:.2f} |")
    print(f"| paraffin encoders check | {checked['tiles_per_second']:.1f} | {checked['tiles_per_second'] / on_card:.2f} |")
    print(f"| paraffin embed, {done} tiles from process start to published files | {done / whole:.1f} | {done / whole / on_card / cards:.2f} |")
    used = operations(card) * on_card
    print(f"\nA tile takes {operations(card) / 1e9:.1f} G operations: the bare session does {used / 1e12:.2f} T operations/s, "
          f"{100 * used / products:.0f} % of the {products / 1e12:.2f} T of one large product.")
    print(f"The card was busy {share} of the run. {waited}")


if __name__ == "__main__":
    main()
