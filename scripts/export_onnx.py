#!/usr/bin/env python3
"""Weights to ONNX: makes of an encoder's downloaded weights the file that paraffin runs.

    scripts/export_onnx.py uni2-h --weights pytorch_model.bin -o uni2-h/
    paraffin embed SLIDES -o OUT --encoder uni2-h/

ENCODER is the id of a card in models/ or a card of your own (.toml). Encoders of route 'direct' (plain vision transformers)
need numpy and onnx alone: safetensors and files of torch.save are read without torch, and nothing in them is executed.
Those of route 'torch' need scripts/requirements-torch.txt.

Written to the folder: <id>.onnx, for large models <id>.onnx.data, and the card <id>.toml with the file's sha256 and how it
was checked. The same weights and card give the same bytes. The graph takes uint8 `image` [batch, px, px, 3] and gives float32
`embedding` [batch, dim]; normalisation and pooling are inside. With --precision fp16 or int8 the files are <id>.fp16.onnx and
so on, which `paraffin embed --precision-compute fp16` takes; the card says how far their embeddings are from fp32's. int8 is for
processors: weights and activations of the matrix products become 8-bit numbers (onnxruntime's dynamic quantisation).

Licences: a converted file is a copy of the weights; what their licence says of copies holds for it.
"""

import argparse
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
try:
    import numpy as np
    import onnx
except ImportError:
    # `scripts/export_onnx.py ...` with the system's Python: the one of scripts/setup --dev has them.
    venv = ROOT / ".venv"
    if not (venv / "bin/python").exists() or Path(sys.prefix) == venv:
        sys.exit("export: numpy and onnx are missing: scripts/setup --dev makes a Python with them")
    os.execv(venv / "bin/python", [str(venv / "bin/python"), *sys.argv])

import vit_onnx
import vit_weights
import weights_file
from weights_file import Unreadable

MODELS = ROOT / "models"
PROBES = 4


def load_card(name):
    path = Path(name) if name.endswith(".toml") else MODELS / f"{name}.toml"
    if not path.is_file():
        cards = {p: tomllib.loads(p.read_text()) for p in sorted(MODELS.glob("*.toml"))}
        path = next((p for p, card in cards.items() if name in card.get("aliases", [])), None)
        if path is None:
            sys.exit(f"export: no card '{name}': an id in {MODELS.name}/ or a .toml file; 'paraffin encoders list' shows all")
    return tomllib.loads(path.read_text())


def toml(card):
    """A card as TOML: plain values first, then tables."""

    def value(v):
        if isinstance(v, bool):
            return str(v).lower()
        if isinstance(v, list):
            return f"[{', '.join(map(value, v))}]"
        if isinstance(v, str):
            escaped = v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            return f'"{escaped}"'
        return repr(v)

    def table(node, name):
        lines = [f"{k} = {value(v)}" for k, v in node.items() if not isinstance(v, dict)]
        for key, inner in node.items():
            if isinstance(inner, dict):
                full = f"{name}.{key}" if name else key
                lines += ["", f"[{full}]", *table(inner, full)]
        return lines

    return "\n".join(table(card, "")) + "\n"


def identity(path):
    """The model's sha256 as paraffin computes it: of the file; with external data, of the list of all files' sha256."""
    own, data = weights_file.sha256(path), path.with_name(path.name + ".data")
    if not data.exists():
        return own
    return hashlib.sha256(f"{own} graph\n{weights_file.sha256(data)} {data.name}\n".encode()).hexdigest()


def quantised(fp32, path):
    """The int8 form of a graph: weights by column, with 7 bits (as processors without VNNI would overflow), activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it recommends a preparation that these graphs do not need
    quantize_dynamic(
        fp32, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"],
        use_external_data_format=fp32.with_name(fp32.name + ".data").exists(), extra_options={"DefaultTensorType": 1},
    )


def build(card, tensors, precision, attention, folder, name):
    """Builds the graph and writes it to the folder."""
    vit = card["architecture"]["vit"]
    state = vit_weights.timm_names(tensors, vit, card["input"]["px"])
    size = sum(t.size for t in state.values()) * (2 if precision == "fp16" else 4)
    external = open(folder / f"{name}.data", "wb") if size > vit_onnx.EMBEDDED_BYTES else None
    try:
        model = vit_onnx.model(state, tensors, card, precision, attention, external, {"paraffin.card": toml(card)})
    finally:
        if external:
            external.close()
    (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(folder / name))
    return state


def probes(px):
    """Pictures for a check: noise, smooth colours, and one that is flat."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:px, 0:px] / px
    waves = [128 + 60 * np.sin(9 * x * (c + 1) + 7 * y) for c in range(3)]
    pictures = [random.integers(0, 256, (px, px, 3)), np.stack(waves, 2), np.stack([235 - 40 * x, 180 - 60 * y, 210 - 30 * x * y], 2)]
    pictures += [np.full((px, px, 3), 243)]
    return np.stack(pictures[:PROBES]).astype(np.uint8)


def run(path, pixels, batch=2):
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"image": pixels[i : i + batch]})[0] for i in range(0, len(pixels), batch)])
    except Exception as e:  # the runtime's own kinds have no common parent
        raise Unreadable(f"ONNX Runtime refuses the graph, so these weights are not the card's: {str(e).splitlines()[0][:300]}") from None


def compared(mine, theirs):
    """Largest difference and least cosine, row by row."""
    mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
    cosine = (mine * theirs).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
    return float(np.abs(mine - theirs).max()), float(cosine.min())


def verified(card, source, path, precision, fp32):
    """Runs the file, compares it with its fp32 form, if it is another, and with its source in eager torch, and says what was
    seen. `source`: a function that gives the source, uint8 [n, px, px, 3] to [n, dim], and its name; it may raise ImportError."""
    pixels = probes(card["input"]["px"])
    got = run(path, pixels, 1 if precision == "int8" else 2)
    if got.shape != (len(pixels), card["output"]["dim"]):
        raise Unreadable(f"the graph gives {got.shape[1]} values, the card says {card['output']['dim']}")
    if not np.isfinite(got).all() or np.ptp(got, axis=0).max() == 0:
        raise Unreadable("the graph gives infinite, missing or constant values")
    said = f"{precision}; runs in ONNX Runtime, values finite"
    if fp32:
        difference, cosine = compared(got, run(fp32, pixels))
        said += f"; {len(pixels)} tiles against fp32: largest difference {difference:.1e}, least cosine {cosine:.7f}"
    try:
        model, name = source()
        import torch
    except ImportError:
        return f"{said}; not compared with its source: no torch and timm here"
    difference, cosine = compared(got, model(torch.from_numpy(pixels)).numpy())
    if not cosine >= (0.9 if precision == "int8" else 0.9999):
        raise Unreadable(f"the graph does not agree with {name}: least cosine {cosine:.6f}")
    return f"{said}; {len(pixels)} tiles against {name}: largest difference {difference:.1e}, least cosine {cosine:.7f}"


def timm_source(card, state, tensors):
    """The source of a plain vision transformer, for `verified`."""

    def source():
        import timm
        import torch

        import export_torch

        model = export_torch.with_head(export_torch.timm_vit(card, state), card, tensors)
        return model, f"timm {timm.__version__}, torch {torch.__version__}"

    return source


def traced(card, weights, precision, path):
    """Lets torch export the file; the source of it, for `verified`."""
    import torch

    import export_torch

    export_torch.export(card, weights, precision, path, {"paraffin.card": toml(card)})
    return lambda: (export_torch.loaded(card, weights), f"the same model in torch {torch.__version__}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", metavar="ENCODER", help="id of a card in models/, or a card (.toml)")
    parser.add_argument("--weights", type=Path, required=True, help="the downloaded file: .safetensors, .bin, .pth, .pt")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8"], default="fp32")
    parser.add_argument("--attention", choices=["mha", "plain"], default="mha",
                        help="mha: ONNX Runtime's own operator; plain: standard ones, for other runtimes and TensorRT")
    parser.add_argument("--allow-other-weights", action="store_true", help="weights whose sha256 is not the card's")
    options = parser.parse_args()
    card = load_card(options.encoder)
    route = card.get("architecture", {}).get("route", "none")
    if route == "none":
        sys.exit(f"export: there is no way to export '{card['id']}' here: {card.get('note') or 'its card has no route'}")
    if not options.weights.is_file():
        source = card.get("weights", {})
        sys.exit(f"export: no such file: {options.weights} ({source.get('file', 'the weights')} of {source.get('source', card['id'])})")
    digest, known = weights_file.sha256(options.weights), card.get("weights", {}).get("sha256", "")
    if known and digest != known and not options.allow_other_weights:
        sys.exit(f"export: {options.weights.name} has the sha256 {digest}, the card of '{card['id']}' says {known}: another "
                 "version or a damaged download; --allow-other-weights takes it all the same")
    suffix = "" if options.precision == "fp32" else f".{options.precision}"
    name = f"{card['id']}{suffix}.onnx"
    card = {"id": card["id"]} | card | {"file": name, "sha256": "", "compute": options.precision, "verified": ""}
    card["weights"] = card.get("weights", {}) | {"sha256": digest}
    options.out.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: files are moved to their names when the last check has passed.
    with tempfile.TemporaryDirectory(dir=options.out, prefix=".export-") as temporary:
        folder = Path(temporary)
        try:
            reference = folder / "fp32" / "fp32.onnx" if options.precision != "fp32" else None
            for precision, path in [("fp32", reference), (options.precision, folder / name)]:
                if path is None:
                    continue
                path.parent.mkdir(exist_ok=True)
                if precision == "int8":
                    quantised(reference, path)
                elif route == "direct":
                    tensors = weights_file.read(options.weights)
                    state = build(card, tensors, precision, options.attention, path.parent, path.name)
                    source = timm_source(card, state, tensors)
                else:
                    source = traced(card, options.weights, precision, path)
            said = verified(card, source, folder / name, options.precision, reference)
            if reference:
                shutil.rmtree(reference.parent)
        except ImportError as e:
            sys.exit(f"export: '{card['id']}' is exported by torch, and {e.name} is missing: use a Python with scripts/requirements-torch.txt")
        except Unreadable as e:
            sys.exit(f"export: {options.weights}: {e}")
        other = "" if not known or digest == known else " (not the card's weights)"
        card |= {"sha256": identity(folder / name), "verified": said + other}
        (folder / name).with_suffix(".toml").write_text(toml(card))
        written = sorted(p for p in folder.iterdir())
        for path in sorted(written, key=lambda p: p.suffix == ".toml"):
            os.replace(path, options.out / path.name)
    total = sum((options.out / p.name).stat().st_size for p in written)
    print(f"{', '.join(p.name for p in written)} in {options.out}: {total / 1e6:.1f} MB; {said}{other}")


if __name__ == "__main__":
    main()
