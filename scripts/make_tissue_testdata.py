#!/usr/bin/env python3
"""Makes testdata/tissue: pictures of slides at 4 µm/px with known truth, a kind of artefact each, and a segmentation model.

The tissue's texture is that of testdata/CMU-1-Small-Region.svs (CC0, OpenSlide's test data), reduced to 4 µm/px and mirrored into
shapes. Truth (<name>_truth.png) holds 0 glass, 1 tissue, 2 pen, 3 never scanned, 4 pen over tissue, 5 dirt. Run in the tests'
Python; the same versions give the same bytes.

    .venv/bin/python scripts/make_tissue_testdata.py
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openslide
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "testdata" / "tissue"
MPP = 4.0
W, H = 750, 550  # 3 x 2.2 mm
GLASS = np.array([243, 243, 245], np.float32)
GLASS_0, TISSUE, PEN, UNSCANNED, PEN_OVER_TISSUE, DIRT = range(6)


def texture(mpp=MPP):
    """Real tissue at `mpp` with little glass, mirrored to any size: float32 (H, W, 3)."""
    slide = openslide.OpenSlide(str(ROOT / "testdata" / "CMU-1-Small-Region.svs"))
    whole = slide.read_region((0, 0), 0, slide.level_dimensions[0]).convert("RGB")
    # A square without glass.
    part = whole.crop((752, 1920, 1712, 2880)).reduce(round(mpp / 0.499))
    tile = np.asarray(part, np.float32)
    tile = np.concatenate([tile, tile[::-1]], 0)
    tile = np.concatenate([tile, tile[:, ::-1]], 1)
    reps = (-(-H // tile.shape[0]), -(-W // tile.shape[1]), 1)
    return np.tile(tile, reps)[:H, :W]


def shape(draw):
    mask = Image.new("L", (W * 4, H * 4))
    draw(ImageDraw.Draw(mask), 4)
    return np.asarray(mask.resize((W, H), Image.BOX), np.float32) / 255


def blobs(d, s):
    """Three pieces with ragged borders and a hole."""
    for cx, cy, r, seed in [(200, 200, 140, 1), (530, 170, 105, 2), (480, 420, 95, 3)]:
        rng = np.random.default_rng(seed)
        a = np.linspace(0, 2 * np.pi, 240, endpoint=False)
        wave = sum(rng.uniform(0.02, 0.06) * np.sin(k * a + rng.uniform(0, 6.3)) for k in range(2, 9))
        d.polygon([((cx + r * (1 + w) * np.cos(t)) * s, (cy + r * (1 + w) * np.sin(t)) * s) for t, w in zip(a, wave)], fill=255)
    d.ellipse([160 * s, 230 * s, 250 * s, 300 * s], fill=0)


def line(points, width):
    return lambda d, s: d.line([(x * s, y * s) for x, y in points], fill=255, width=width * s, joint="curve")


def blend(picture, colour, alpha):
    return picture * (1 - alpha[..., None]) + np.asarray(colour, np.float32) * alpha[..., None]


def base(tissue=None, glass=GLASS, alpha=None, lit=True):
    alpha = shape(blobs) if alpha is None else alpha
    tissue = texture() if tissue is None else tissue
    glass = np.broadcast_to(np.asarray(glass, np.float32), (H, W, 3))
    # Stain takes its share of whatever light comes through the glass.
    tissue = tissue * glass / GLASS if lit else tissue
    return glass * (1 - alpha[..., None]) + tissue * alpha[..., None], (alpha >= 0.5).astype(np.uint8)


def noise(picture, sd=1.2, seed=7):
    grain = np.random.default_rng(seed).normal(0, sd, (H, W, 1)).astype(np.float32)
    pure = (picture == 255).all(2, keepdims=True) | (picture == 0).all(2, keepdims=True)
    return np.where(pure, picture, np.clip(picture + grain, 1, 253))


def save(name, picture, truth, quality=88, grain=1.2):
    pixels = Image.fromarray(np.round(noise(picture, grain)).astype(np.uint8))
    pixels.save(OUT / f"{name}.jpg", quality=quality, subsampling=0, optimize=True)
    Image.fromarray(truth).save(OUT / f"{name}_truth.png", optimize=True)


STROKE = [(90, 40), (140, 120), (260, 160), (330, 330), (250, 470), (120, 500)]
FREE = [(640, 40), (690, 150), (670, 320), (700, 480)]
PENS = {
    "blue": (40, 60, 170),
    "green": (25, 140, 80),
    "red": (205, 25, 40),
    "black": (32, 32, 36),
    "yellow": (245, 215, 40),
    "orange": (240, 115, 25),
    "purple": (110, 45, 150),
}


def pens():
    for name, colour in PENS.items():
        picture, truth = base()
        # Purple has a stain's colour: it is pen on the glass, not over tissue.
        strokes = [FREE] if name == "purple" else [STROKE, FREE]
        ink = np.zeros((H, W), np.float32)
        for points in strokes:
            ink = np.maximum(ink, shape(line(points, 26)))
        ink = np.asarray(Image.fromarray((ink * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.2)), np.float32) / 255
        truth = np.where(ink >= 0.5, np.where(truth == TISSUE, PEN_OVER_TISSUE, PEN), truth).astype(np.uint8)
        save(f"pen_{name}", blend(picture, colour, ink * 0.96), truth)


def backgrounds():
    save("tinted", *base(glass=(226, 219, 194)))
    x, y = np.meshgrid(np.linspace(0, 1, W), np.linspace(0, 1, H))
    field = np.stack([246 - 10 * x, 245 - 16 * x - 4 * y, 243 - 30 * x - 6 * y], 2)
    save("uneven", *base(glass=field))
    picture, truth = base()
    for colour, (left, top, right, bottom) in [(255, (600, 0, W, 200)), (0, (0, 480, 300, H)), (0, (560, 400, 620, H)), (255, (0, 0, 60, 300))]:
        picture[top:bottom, left:right] = colour
        truth[top:bottom, left:right] = UNSCANNED
    save("unscanned", picture, truth)


def pale():
    # Stain of a twelfth of its strength: what is left is texture.
    faint = 243 - (243 - texture()) * 0.12
    save("pale", *base(tissue=faint), grain=0.8)
    # Fat: thin membranes around empty cells of about 90 µm, and a strand of ordinary tissue.
    rng = np.random.default_rng(5)
    step = 22
    seeds = np.array([(x + rng.uniform(-6, 6), y + rng.uniform(-6, 6)) for y in range(-step, H + step, step) for x in range(-step, W + step, step)])
    yy, xx = np.mgrid[0:H, 0:W]
    first = np.full((H, W), 1e9)
    second = first.copy()
    for sx, sy in seeds:
        left, top = max(0, int(sx) - 60), max(0, int(sy) - 60)
        part = (slice(top, int(sy) + 60), slice(left, int(sx) + 60))
        d = np.hypot(xx[part] - sx, yy[part] - sy)
        second[part] = np.where(d < first[part], first[part], np.minimum(second[part], d))
        first[part] = np.minimum(first[part], d)
    membrane = np.clip(1 - (second - first) / 2.5, 0, 1)
    # A piece of fat ends with the membranes of its outermost cells.
    inside = np.asarray(Image.fromarray((shape(blobs) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2)), np.float32) / 255
    membrane = np.maximum(membrane, np.clip(1 - np.abs(inside - 0.75) * 4, 0, 1))
    cells = 243 - membrane[..., None] * np.array([14, 40, 22]) * 0.9
    save("fat", *base(tissue=cells.astype(np.float32)), grain=0.8)
    # Immunohistochemistry: a pale blue counterstain with brown cells here and there.
    weak = 245 - (245 - texture()[..., [1, 1, 2]]) * np.array([0.16, 0.13, 0.07])
    brown = np.random.default_rng(9).random((H // 5 + 1, W // 5 + 1)) > 0.985
    brown = np.kron(brown, np.ones((5, 5)))[:H, :W].astype(np.float32)
    save("ihc", *base(tissue=blend(weak, (125, 80, 50), brown * 0.8).astype(np.float32)), grain=0.8)


def dirt():
    picture, truth = base()
    edge = shape(line([(20, 20), (735, 34)], 6)) * 0.55
    picture = blend(picture, (170, 172, 174), edge)
    picture = blend(picture, (160, 160, 164), shape(line([(728, 30), (716, 545)], 5)) * 0.6)
    rng = np.random.default_rng(11)
    specks = shape(lambda d, s: [d.ellipse([x * s, y * s, (x + r) * s, (y + r * f) * s], fill=255) for x, y, r, f in zip(rng.uniform(0, W, 60), rng.uniform(40, H, 60), rng.uniform(4, 16, 60), rng.uniform(0.6, 1.4, 60))])
    specks *= truth == 0
    picture = blend(picture, (70, 68, 66), specks * 0.9)
    save("dust_and_edges", picture, np.where((truth == 0) & ((edge > 0.3) | (specks > 0.5)), DIRT, truth).astype(np.uint8))
    picture, truth = base()
    for cx, cy, r in [(90, 460, 60), (330, 500, 35), (680, 330, 50), (190, 180, 45)]:
        ring = shape(lambda d, s: d.ellipse([(cx - r) * s, (cy - r) * s, (cx + r) * s, (cy + r) * s], outline=255, width=7 * s))
        picture = blend(picture, (105, 105, 108), ring * 0.85)
    save("bubbles", picture, truth)


def blurred():
    # Out of focus on the right, by a Gaussian of 6 µm before the picture was taken.
    fine = Image.fromarray(np.round(texture()).astype(np.uint8))
    soft = np.asarray(fine.filter(ImageFilter.GaussianBlur(6 / MPP)), np.float32)
    right = (np.arange(W) >= 375)[None, :, None]
    # Little noise: pixels of 4 µm are means of many.
    save("blurred", *base(tissue=np.where(right, soft, texture())), grain=0.5)


def fluorescence():
    glow = 255 - texture()
    cells = np.clip((glow - 60) / 195, 0, 1) * np.array([0.05, 0.12, 0.45]) * 255
    save("fluorescence", *base(tissue=cells.astype(np.float32) + [2, 3, 12], glass=(1, 1, 3), lit=False), grain=0.5)


def empty():
    save("empty", *base(alpha=np.zeros((H, W), np.float32)))


def model():
    """A model of two classes from the mean of the normalised colours, and what ONNX Runtime makes of it on `tinted`."""
    mean, std = [0.7, 0.6, 0.65], [0.2, 0.25, 0.2]
    weight = np.array([[[[0.5]], [[1.0]], [[0.5]]], [[[-0.5]], [[-1.0]], [[-0.5]]]], np.float32)
    bias = np.array([-0.9, 0.9], np.float32)
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["smooth"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["smooth", "weight", "bias"], ["classes"]),
    ]
    sides = ["n", 3, 128, 128]
    graph = helper.make_graph(
        nodes,
        "tissue",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["n", 2, 128, 128])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    onnx.save(made, OUT / "model.onnx")
    card = {"mean": mean, "std": std}
    (OUT / "model.toml").write_text(
        "# Made by scripts/make_tissue_testdata.py: class 1 is what is darker than a threshold.\n"
        'id = "test-tissue"\nname = "a threshold as a graph"\n\n'
        '[input]\npx = 128\nmpp = 8.0\noverlap_px = 16\nlayout = "nchw"\ndtype = "float32"\n'
        f"mean = {json.dumps(mean)}\nstd = {json.dumps(std)}\n\n"
        '[output]\nname = "classes"\nactivation = "argmax"\ntissue = [1]\n'
    )
    # The same by another way: the whole picture at once, in one batch of one, cut into the graph's squares.
    session = onnxruntime.InferenceSession(str(OUT / "model.onnx"), providers=["CPUExecutionProvider"])
    picture = np.asarray(Image.open(OUT / "tinted.jpg").convert("RGB"), np.float64)
    h, w = H // 2, W // 2
    half = np.floor(picture[: h * 2, : w * 2].reshape(h, 2, w, 2, 3).sum((1, 3)) / 4 + 0.5)
    padded = np.pad(half, ((64, 192), (64, 192), (0, 0)), mode="edge") / 255
    padded = ((padded - card["mean"]) / card["std"]).astype(np.float32).transpose(2, 0, 1)[None]
    found = np.zeros((h, w), np.uint8)
    for y in range(0, h, 64):
        for x in range(0, w, 64):
            tile = padded[:, :, y + 32 : y + 160, x + 32 : x + 160]
            classes = session.run(None, {"pixels": np.ascontiguousarray(tile)})[0][0].argmax(0)
            part = found[y : y + 64, x : x + 64]
            part[:] = classes[32:96, 32:96][: part.shape[0], : part.shape[1]]
    Image.fromarray(found * 255).save(OUT / "model_expected.png", optimize=True)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for part in (pens, backgrounds, pale, dirt, blurred, fluorescence, empty, model):
        part()
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size:8} {path.name}")


if __name__ == "__main__":
    main()
