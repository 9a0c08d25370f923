"""A vision transformer as an ONNX graph, from its tensors, without torch.

In: `image`, uint8 [batch, px, px, 3]. Out: `embedding`, float32 [batch, dim]. Normalisation, pooling and heads are in the
graph. What is done to the arithmetic is exact up to float32's rounding:

- normalisation is folded into the patch projection, which is a matrix product over patches (a patch convolution has no padding);
- prefix tokens come by padding and one addition, so that no shape is computed at run time;
- layer scale is folded into the matrix before it;
- where the class token alone is wanted, the last block computes its row alone.

With fp16, matrices and their products are float16; norms, softmax, layer scale and the residual stream stay float32, as in the
mixed precision that such models are run in. Normalisation and layer scale are not folded there: the products would fall below
float16's range.
"""

import numpy as np
from onnx import TensorProto, helper

from weights_file import Unreadable

# Weights beyond this go to a file beside the graph: protobuf ends at 2 GiB.
EMBEDDED_BYTES = 1 << 30
ALIGNMENT = 4096


class Graph:
    """Nodes and constants, as they are added."""

    def __init__(self, external=None):
        self.nodes, self.constants, self.external = [], [], external
        self.offset, self.names, self.kept = 0, 0, {}

    def add(self, op, inputs, domain="", outputs=1, **attributes):
        self.names += 1
        out = [f"{op}_{self.names}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, out, name=out[0], domain=domain, **attributes))
        return out[0] if outputs == 1 else out

    def constant(self, name, values):
        """A constant by name; large ones go to the file of external data, if there is one."""
        values = np.ascontiguousarray(values)
        assert values.dtype in (np.float32, np.float16, np.int64), values.dtype
        tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
        if self.external and values.nbytes >= 1024:
            gap = -self.offset % ALIGNMENT
            self.external.write(bytes(gap))
            self.external.write(values.data)
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": self.external.name.rsplit("/")[-1], "offset": self.offset + gap, "length": values.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self.offset += gap + values.nbytes
        else:
            tensor.raw_data = values.tobytes()
        self.constants.append(tensor)
        return name

    def numbers(self, *values):
        """A constant list of whole numbers, shared by all who need it."""
        if values not in self.kept:
            self.kept[values] = self.constant("_".join(["i", *map(str, values)]), np.array(values, np.int64))
        return self.kept[values]

    def scalar(self, value, kind):
        """A constant number, likewise."""
        if (value, kind) not in self.kept:
            self.kept[value, kind] = self.constant(f"number_{len(self.kept)}", np.array(value, kind))
        return self.kept[value, kind]


class Builder:
    """One transformer becoming a graph."""

    def __init__(self, graph, state, vit, px, precision, attention):
        self.g, self.state, self.vit, self.px = graph, state, vit, px
        self.half = precision == "fp16"
        self.type = np.float16 if self.half else np.float32
        self.plain = attention == "plain"
        self.prefix = 1 + vit.get("registers", 0)

    def tensor(self, name):
        return self.state[name].astype(np.float32)

    def low(self, value):
        return self.g.add("Cast", [value], to=TensorProto.FLOAT16) if self.half else value

    def full(self, value):
        return self.g.add("Cast", [value], to=TensorProto.FLOAT) if self.half else value

    def linear(self, x, name, weight, bias=None):
        """`x` times the transposed `weight` [out, in], plus `bias`."""
        y = self.g.add("MatMul", [x, self.g.constant(f"{name}.weight", weight.T.astype(self.type))])
        if bias is None:
            return y
        return self.g.add("Add", [y, self.g.constant(f"{name}.bias", bias.astype(self.type))])

    def norm(self, x, name):
        weight, bias = (self.g.constant(f"{name}.{k}", self.tensor(f"{name}.{k}")) for k in ("weight", "bias"))
        return self.g.add("LayerNormalization", [x, weight, bias], axis=-1, epsilon=float(self.vit["norm_eps"]))

    def tokens(self, mean, std):
        """Pixels to tokens, with their positions: float32 [batch, prefix + patches, width]."""
        g, patch, width = self.g, self.vit["patch"], self.vit["width"]
        side = self.px // patch
        mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        kernel = self.state["patch_embed.proj.weight"].astype(np.float64)  # out, colour, y, x
        bias = self.state["patch_embed.proj.bias"].astype(np.float64)
        x = g.add("Cast", ["image"], to=TensorProto.FLOAT)
        if self.half:
            scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
            x = g.add("Mul", [x, g.constant("scale", scale)])
            x = self.low(g.add("Add", [x, g.constant("shift", shift)]))
        else:
            bias = bias - (kernel.sum((2, 3)) * (mean / std)).sum(1)
            kernel = kernel / (255 * std)[:, None, None]
        x = g.add("Reshape", [x, g.numbers(0, side, patch, side, patch, 3)])
        x = g.add("Transpose", [x], perm=[0, 1, 3, 2, 4, 5])
        x = g.add("Reshape", [x, g.numbers(0, side * side, patch * patch * 3)])
        matrix = kernel.transpose(2, 3, 1, 0).reshape(-1, width)  # y, x, colour by out
        x = self.full(g.add("MatMul", [x, g.constant("patch", matrix.astype(self.type))]))
        x = g.add("Pad", [x, g.numbers(0, self.prefix, 0, 0, 0, 0)])
        count = self.vit["prefix_positions"]
        positions = self.state["pos_embed"][0].astype(np.float64)
        prefix = [self.state["cls_token"][0], *([self.state["reg_token"][0]] if self.prefix > 1 else [])]
        prefix = np.concatenate(prefix).astype(np.float64)
        prefix[:count] += positions[:count]
        added = np.concatenate([prefix, positions[count:] + bias])
        return g.add("Add", [x, g.constant("positions", added[None].astype(np.float32))])

    def attend(self, query, key, value, bias):
        """Attention of `query` over `key` and `value`, all [batch, tokens, width]; `bias` is that of all three."""
        g, heads, width = self.g, self.vit["heads"], self.vit["width"]
        if not self.plain:
            bias = g.constant(f"{bias}", self.tensor(bias).astype(self.type))
            return g.add("MultiHeadAttention", [query, key, value, bias], domain="com.microsoft", num_heads=heads)
        parts = []
        for letter, x, order, b in zip("qkv", (query, key, value), ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]),
                                       np.split(self.tensor(bias), 3)):
            if letter == "q":
                b = b / np.sqrt(width // heads)
            x = g.add("Add", [x, g.constant(f"{bias}.{letter}", b.astype(self.type))])
            x = g.add("Reshape", [x, g.numbers(0, -1, heads, width // heads)])
            parts.append(g.add("Transpose", [x], perm=order))
        scores = self.full(g.add("MatMul", parts[:2]))
        weights = self.low(g.add("Softmax", [scores], axis=-1))
        x = g.add("Transpose", [g.add("MatMul", [weights, parts[2]])], perm=[0, 2, 1, 3])
        return g.add("Reshape", [x, g.numbers(0, -1, width)])

    def mlp(self, x, name):
        weight, bias = self.tensor(f"{name}.fc1.weight"), self.tensor(f"{name}.fc1.bias")
        if self.vit["mlp"] == "swiglu":
            (gate_w, up_w), (gate_b, up_b) = np.split(weight, 2), np.split(bias, 2)
            gate, up = self.linear(x, f"{name}.gate", gate_w, gate_b), self.linear(x, f"{name}.up", up_w, up_b)
            gate = self.g.add("Mul", [gate, self.g.add("Sigmoid", [gate])])
            return self.g.add("Mul", [gate, up])
        return self.gelu(self.linear(x, f"{name}.fc1", weight, bias))

    def gelu(self, x):
        if not self.plain:
            return self.g.add("Gelu", [x], domain="com.microsoft")
        g = self.g
        half, root, one = (g.scalar(v, self.type) for v in (0.5, 2**-0.5, 1.0))
        y = g.add("Add", [g.add("Erf", [g.add("Mul", [x, root])]), one])
        return g.add("Mul", [g.add("Mul", [x, half]), y])

    def added(self, x, y, name, gamma):
        """`x` plus the matrix `name` times `y`, scaled by the block's `gamma` where it has one."""
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        scale = self.state.get(gamma)
        if scale is not None and not self.half:
            scale = scale.astype(np.float32)
            weight, bias, scale = weight * scale[:, None], bias * scale, None
        y = self.full(self.linear(y, name, weight, bias))
        if scale is not None:
            y = self.g.add("Mul", [y, self.g.constant(gamma, scale.astype(np.float32))])
        return self.g.add("Add", [x, y])

    def block(self, x, i, first_only):
        g, name, width = self.g, f"blocks.{i}", self.vit["width"]
        normed = self.low(self.norm(x, f"{name}.norm1"))
        weights = np.split(self.tensor(f"{name}.attn.qkv.weight"), 3)
        if self.plain:
            weights[0] = weights[0] / np.sqrt(width // self.vit["heads"])
        queries = normed
        if first_only:
            x, queries = (g.add("Slice", [v, g.numbers(0), g.numbers(1), g.numbers(1)]) for v in (x, normed))
        parts = [self.linear(v, f"{name}.attn.{c}", w) for c, v, w in zip("qkv", (queries, normed, normed), weights)]
        x = self.added(x, self.attend(*parts, f"{name}.attn.qkv.bias"), f"{name}.attn.proj", f"{name}.ls1.gamma")
        normed = self.low(self.norm(x, f"{name}.norm2"))
        return self.added(x, self.mlp(normed, f"{name}.mlp"), f"{name}.mlp.fc2", f"{name}.ls2.gamma")

    def pooled(self, x, pooling):
        """Normalised tokens (the class token alone for `cls`) to [batch, dim]."""
        g, width = self.g, self.vit["width"]
        parts = []
        if pooling in ("cls", "cls+mean"):
            first = x if pooling == "cls" else g.add("Slice", [x, g.numbers(0), g.numbers(1), g.numbers(1)])
            parts.append(g.add("Reshape", [first, g.numbers(0, width)]))
        if pooling in ("mean", "cls+mean"):
            end = np.iinfo(np.int64).max
            rest = g.add("Slice", [x, g.numbers(self.prefix), g.numbers(end), g.numbers(1)])
            parts.append(g.add("ReduceMean", [rest, g.numbers(1)], keepdims=0))
        return parts[0] if len(parts) == 1 else g.add("Concat", parts, axis=-1)

    def encode(self, mean, std, first_only):
        x = self.tokens(mean, std)
        depth = self.vit["depth"]
        for i in range(depth):
            x = self.block(x, i, first_only and i == depth - 1)
        return self.norm(x, "norm")


# --- what comes after the transformer --------------------------------------------------------------------------------
# A head takes the builder, the normalised tokens (or what they were pooled to) and all tensors of the weights file, and gives
# [batch, dim]. Heads are small and computed in float32.


def head_tensor(tensors, ending):
    found = [name for name in tensors if name == ending or name.endswith(f".{ending}")]
    if len(found) != 1:
        raise Unreadable(f"the head's '{ending}' is there {len(found)} times")
    if not np.isfinite(tensors[found[0]]).all():
        raise Unreadable(f"{found[0]} has values that are not finite")
    return tensors[found[0]].astype(np.float32)


def keep(builder, x, tensors):
    """KEEP: two matrices with a GELU between them, then length 1."""
    for i in (0, 2):
        weight, bias = (head_tensor(tensors, f"visual_head.{i}.{kind}") for kind in ("weight", "bias"))
        x = builder.linear(x, f"head.{i}", weight, bias)
        x = builder.gelu(x) if i == 0 else x
    return builder.g.add("LpNormalization", [x], axis=-1, p=2)


def coca(builder, x, tensors):
    """CONCH: one learnt query attends to all tokens, then a norm. Epsilons are PyTorch's default, 1e-5."""
    g, pool = builder.g, lambda name: head_tensor(tensors, f"attn_pool_contrast.{name}")

    def norm(x, name):
        weight, bias = (g.constant(f"{name}.{k}", head_tensor(tensors, f"{name}.{k}")) for k in ("weight", "bias"))
        return g.add("LayerNormalization", [x, weight, bias], axis=-1, epsilon=1e-5)

    query = pool("query").astype(np.float64)[:1]
    query = (query - query.mean(1)) / np.sqrt(query.var(1) + 1e-5) * pool("ln_q.weight") + pool("ln_q.bias")
    width, heads = query.shape[1], 8
    if any(name.endswith("attn_pool_contrast.attn.in_proj_weight") for name in tensors):
        matrices = np.split(pool("attn.in_proj_weight"), 3)
    else:
        matrices = [pool(f"attn.{c}_proj_weight") for c in "qkv"]
    biases = np.split(pool("attn.in_proj_bias"), 3)
    size = width // heads
    query = (query @ matrices[0].T + biases[0]) / np.sqrt(size)
    query = query.reshape(1, 1, heads, size).transpose(0, 2, 1, 3)  # 1, head, query, size
    x = norm(x, "attn_pool_contrast.ln_k")
    split = g.numbers(0, -1, heads, size)
    key, value = (
        g.add("Transpose", [g.add("Reshape", [builder.linear(x, f"head.{c}", m, b), split])], perm=order)
        for c, m, b, order in zip("kv", matrices[1:], biases[1:], ([0, 2, 3, 1], [0, 2, 1, 3]))
    )
    weights = g.add("Softmax", [g.add("MatMul", [g.constant("head.query", query.astype(np.float32)), key])], axis=-1)
    x = g.add("Reshape", [g.add("MatMul", [weights, value]), g.numbers(0, width)])
    x = builder.linear(x, "head.out", pool("attn.out_proj.weight"), pool("attn.out_proj.bias"))
    return norm(x, "ln_contrast")


def coca_projected(builder, x, tensors):
    """CONCH with its projection into the space it shares with text."""
    return builder.linear(coca(builder, x, tensors), "head.proj", head_tensor(tensors, "proj_contrast").T)


POOLINGS = ("cls", "mean", "cls+mean")
# Name on a card: what the tokens are pooled to before, and the head.
HEADS = {"keep": ("cls", keep), "coca": ("tokens", coca), "coca-projected": ("tokens", coca_projected)}


def model(state, tensors, card, precision, attention, external, metadata):
    """The whole model. `state`: the transformer under timm's names; `tensors`: all of the weights file, for the head.
    `external`: an open file for large constants, or None. `metadata`: strings that go into the file."""
    vit, px, output = card["architecture"]["vit"], card["input"]["px"], card["output"]
    named = card["architecture"].get("head")
    if named and named not in HEADS:
        raise Unreadable(f"the card's head '{named}' is none of {', '.join(HEADS)}")
    pooling, head = HEADS[named] if named else (output["pooling"], None)
    if not named and pooling not in POOLINGS:
        raise Unreadable(f"the card's pooling '{pooling}' is none of {', '.join(POOLINGS)}")
    graph = Graph(external)
    builder = Builder(graph, state, vit, px, precision, attention)
    x = builder.encode(card["input"]["mean"], card["input"]["std"], first_only=pooling == "cls")
    if pooling != "tokens":
        x = builder.pooled(x, pooling)
    if head:
        builder.half, builder.type = False, np.float32
        head(builder, x, tensors)
    graph.nodes[-1].output[0] = "embedding"
    made = helper.make_graph(
        graph.nodes, card["id"],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", px, px, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", output["dim"]])],
        initializer=graph.constants,
    )
    opsets = [helper.make_opsetid("", 18), *([] if attention == "plain" else [helper.make_opsetid("com.microsoft", 1)])]
    proto = helper.make_model(made, producer_name="paraffin scripts/export_onnx.py", ir_version=10, opset_imports=opsets)
    helper.set_model_props(proto, dict(sorted(metadata.items())))
    return proto
