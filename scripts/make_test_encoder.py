#!/usr/bin/env python3
"""Small ONNX files for tests, with fixed random weights.

  make_test_encoder.py OUT.onnx              an encoder: float32 NCHW in, two convolutions, global average pool, 24 values
  make_test_encoder.py OUT.onnx --pixels PX  an encoder whose embedding is its input: uint8 NHWC of PX px in
  make_test_encoder.py OUT.onnx --half       an encoder in float16 whose graph crashes ONNX Runtime 1.31 at its highest level of
                                             optimisation: a transposition before a product
  make_test_encoder.py OUT.onnx --tokens     an encoder of two outputs: `tokens`, float16 [batch, 18, 24], of which the first two are
                                             no picture's, and `pooled`, float32 [batch, 24]
  make_test_encoder.py OUT.onnx --slide DIM  a slide encoder, gated attention over all tiles (Ilse et al. 2018): features
                                             [1, N, DIM], coords [1, N, 2] and patch_size_lv0 in, 16 values; with its card
"""
import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(path, nodes, inputs, outputs, weights):
    outputs = outputs if isinstance(outputs, list) else [outputs]
    graph = helper.make_graph(
        nodes, "test", inputs, outputs, [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def encoder(path, tokens=False):
    random = np.random.default_rng(7)
    weights = {
        "w1": random.normal(0, 0.2, (16, 3, 5, 5)),
        "b1": random.normal(0, 0.1, 16),
        "w2": random.normal(0, 0.1, (24, 16, 3, 3)),
        "b2": random.normal(0, 0.1, 24),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], strides=[4, 4]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["embedding"]),
    ]
    values = {k: v.astype(np.float32) for k, v in weights.items()}
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 24])]
    if tokens:
        # The 15 x 15 of the second convolution become 4 x 4, and two more tokens come before them.
        nodes[-1:] = [
            helper.make_node("Flatten", ["p"], ["pooled"]),
            helper.make_node("AveragePool", ["c2"], ["a"], kernel_shape=[3, 3], strides=[4, 4]),
            helper.make_node("Flatten", ["a"], ["f"]),
            helper.make_node("Concat", ["f", "pooled", "f0"], ["flat"], axis=1),
            helper.make_node("Reshape", ["flat", "shape"], ["mixed"]),
            helper.make_node("Cast", ["mixed"], ["tokens"], to=TensorProto.FLOAT16),
        ]
        nodes.insert(-3, helper.make_node("Mul", ["pooled", "three"], ["f0"]))
        values |= {"shape": np.int64([-1, 18, 24]), "three": np.float32([3])}
        outputs = [
            helper.make_tensor_value_info("tokens", TensorProto.FLOAT16, ["batch", 18, 24]),
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", 24]),
        ]
    save(path, nodes, [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 128, 128])], outputs, values)


def pixels(path, px):
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["embedding"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", px, px, 3])
    save(path, nodes, [image], helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", px * px * 3]), {})


def half(path):
    """float16 [50, 2, 768] in the order of torch's attention, as CLIPs that torch exported have it."""
    weights = np.random.default_rng(3).normal(0, 0.02, (768, 2304)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["image"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Div", ["h", "level"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["tokens"]),
        helper.make_node("Transpose", ["tokens"], ["swapped"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["swapped", "w"], ["product"]),
        helper.make_node("ReduceMean", ["product", "axis"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["embedding"], to=TensorProto.FLOAT),
    ]
    values = {"w": weights, "level": np.float16(255), "shape": np.int64([-1, 64, 768]), "axis": np.int64([0])}
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 128, 128, 3])
    save(path, nodes, [image], helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 2304]), values)


CARD = """\
id = "test-abmil"
name = "gated attention with random weights"
encoder = "tiny"

[input]
kind = "features"
dim = {dim}
coords = "coords"
patch_size = "patch_size_lv0"

[tile]
px = 128
mpp = 0.5

[output]
name = "embedding"
dim = 16
"""


def slide(path, dim):
    random = np.random.default_rng(11)
    weights = {
        "v": random.normal(0, 1, (dim, 32)),
        "u": random.normal(0, 1, (dim, 32)),
        "place": random.normal(0, 0.3, (2, 32)),
        "w": random.normal(0, 1, (32, 1)),
        "out": random.normal(0, 0.3, (dim, 16)),
    }
    nodes = [
        # Where a tile lies, in tiles.
        helper.make_node("Cast", ["coords"], ["xy"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["patch_size_lv0"], ["side"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["xy", "side"], ["cell"]),
        helper.make_node("MatMul", ["cell", "place"], ["placed"]),
        helper.make_node("MatMul", ["features", "v"], ["fv"]),
        helper.make_node("Add", ["fv", "placed"], ["fvp"]),
        helper.make_node("Tanh", ["fvp"], ["t"]),
        helper.make_node("MatMul", ["features", "u"], ["fu"]),
        helper.make_node("Sigmoid", ["fu"], ["s"]),
        helper.make_node("Mul", ["t", "s"], ["gated"]),
        helper.make_node("MatMul", ["gated", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["attention"], axis=1),
        helper.make_node("Mul", ["features", "attention"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "out"], ["embedding"]),
    ]
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, "tiles", dim]),
        helper.make_tensor_value_info("coords", TensorProto.INT64, [1, "tiles", 2]),
        helper.make_tensor_value_info("patch_size_lv0", TensorProto.INT64, []),
    ]
    values = {k: v.astype(np.float32) for k, v in weights.items()} | {"axis": np.int64([1])}
    save(path, nodes, inputs, helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 16]), values)
    Path(path).with_suffix(".toml").write_text(CARD.format(dim=dim))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--pixels", type=int, metavar="PX")
    parser.add_argument("--tokens", action="store_true")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--slide", type=int, metavar="DIM")
    args = parser.parse_args()
    if args.pixels:
        pixels(args.out, args.pixels)
    elif args.half:
        half(args.out)
    elif args.slide:
        slide(args.out, args.slide)
    else:
        encoder(args.out, args.tokens)


if __name__ == "__main__":
    main()
