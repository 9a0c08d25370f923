"""The part of the export that needs torch: reference models for checks, and encoders that torch itself exports (route `torch`).

Their toolkits build them; torch traces them. QuiltNet and BiomedCLIP need open_clip_torch, PLIP transformers, the others timm.
"""

import re

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

import vit_onnx
import weights_file
from weights_file import Unreadable


class Encoder(nn.Module):
    """uint8 [batch, px, px, 3] to an embedding: normalises, runs `backbone`, pools."""

    def __init__(self, backbone, mean, std, pool=None):
        super().__init__()
        self.backbone, self.pool = backbone.eval(), pool or (lambda x: x)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def normalised(self, image):
        return (image.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    @torch.no_grad()
    def forward(self, image):
        return self.pool(self.backbone(self.normalised(image)))


def pooling(kind, prefix):
    """What a card calls `cls`, `mean` and `cls+mean`, of normalised tokens."""
    return {
        "cls": lambda x: x[:, 0],
        "mean": lambda x: x[:, prefix:].mean(1),
        "cls+mean": lambda x: torch.cat([x[:, 0], x[:, prefix:].mean(1)], -1),
    }[kind]


def timm_vit(card, state):
    """timm's VisionTransformer of a card's numbers, with tensors under its names (as vit_weights gives them), as an Encoder."""
    from functools import partial

    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    vit, px = card["architecture"]["vit"], card["input"]["px"]
    prefix = 1 + vit.get("registers", 0)
    swiglu = vit["mlp"] == "swiglu"
    state = {name: torch.from_numpy(tensor.copy()).float() for name, tensor in state.items()}
    if vit["prefix_positions"] not in (0, prefix):
        # timm knows positions for all prefix tokens or none: those there are become part of their tokens.
        count = vit["prefix_positions"]
        assert count == 1
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    model = VisionTransformer(
        img_size=px, patch_size=vit["patch"], embed_dim=vit["width"], depth=vit["depth"], num_heads=vit["heads"],
        # + 1/2: timm cuts the product off
        mlp_ratio=(vit["hidden"] * (2 if swiglu else 1) + 0.5) / vit["width"],
        init_values=1e-5 if vit["layer_scale"] else None, reg_tokens=vit.get("registers", 0),
        no_embed_class=vit["prefix_positions"] != prefix, norm_layer=partial(nn.LayerNorm, eps=vit["norm_eps"]),
        num_classes=0, global_pool="",
        **({"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if swiglu else {}),
    )
    model.load_state_dict(state, strict=True)
    pool = None if card["architecture"].get("head") else pooling(card["output"]["pooling"], prefix)
    return Encoder(model, card["input"]["mean"], card["input"]["std"], pool)


# --- heads, by torch's own modules -----------------------------------------------------------------------------------


class Pooler(nn.Module):
    """CoCa's attentional pooler of one query, and the norm after it."""

    def __init__(self, width, dim):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.attn = nn.MultiheadAttention(dim, 8, kdim=width, vdim=width, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(width)

    def forward(self, x):
        x = self.ln_k(x)
        query = self.ln_q(self.query).expand(len(x), -1, -1)
        return self.attn(query, x, x, need_weights=False)[0][:, 0]


class Coca(nn.Module):
    def __init__(self, width, dim, projected):
        super().__init__()
        self.attn_pool_contrast, self.ln_contrast = Pooler(width, dim), nn.LayerNorm(dim)
        self.proj_contrast = nn.Parameter(torch.zeros(dim, dim)) if projected else None

    def forward(self, tokens):
        x = self.ln_contrast(self.attn_pool_contrast(tokens))
        return x if self.proj_contrast is None else x @ self.proj_contrast


class Keep(nn.Module):
    def __init__(self, width, dim):
        super().__init__()
        self.visual_head = nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, tokens):
        return nn.functional.normalize(self.visual_head(tokens[:, 0]), dim=-1)


def head(card):
    """The card's head, its tensors named as in the weights file but for a prefix; None where it has none."""
    width, dim = card["architecture"]["vit"]["width"], card["output"]["dim"]
    match card["architecture"].get("head"):
        case "keep":
            return Keep(width, dim).eval()
        case "coca" | "coca-projected" as name:
            return Coca(width, dim, name == "coca-projected").eval()
    return None


def with_head(encoder, card, tensors):
    """The encoder with the card's head in place of its pooling, the head's tensors from those of the weights file."""
    module = head(card)
    if module is not None:
        state = {name: torch.from_numpy(vit_onnx.head_tensor(tensors, name)) for name in module.state_dict()}
        module.load_state_dict(state, strict=True)
        encoder.pool = module
    return encoder


# --- encoders that torch traces --------------------------------------------------------------------------------------
# Each recipe gives the model, float32 NCHW [batch, 3, px, px] to [batch, dim], and the names of a weights file as its own
# (None: a tensor that it does not need).


def resnet50_clam():
    """ResNet-50 up to its third stage, then the mean over the picture: CLAM's."""
    import timm

    class Truncated(nn.Module):
        def __init__(self):
            super().__init__()
            whole = timm.create_model("resnet50", num_classes=0)
            self.conv1, self.bn1, self.act1, self.maxpool = whole.conv1, whole.bn1, whole.act1, whole.maxpool
            self.layer1, self.layer2, self.layer3 = whole.layer1, whole.layer2, whole.layer3

        def forward(self, x):
            x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
            return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    return Truncated(), lambda name, _: None if name.startswith(("layer4.", "fc.")) else name


def ctranspath():
    """Swin-T whose patches come from three convolutions; the mean over the picture."""
    from timm.models.swin_transformer import SwinTransformer

    class ConvStem(nn.Module):
        """3 -> 12 -> 24 -> 96 with two strides of 2, the last 1x1: a grid of 4 px patches, channels last."""

        def __init__(self, img_size, patch_size, in_chans, embed_dim, norm_layer, **_):
            super().__init__()
            self.img_size, self.patch_size = (img_size, img_size), (patch_size, patch_size)
            self.grid_size = (img_size // patch_size, img_size // patch_size)
            self.num_patches = self.grid_size[0] ** 2
            layers, width = [], in_chans
            for wider in (embed_dim // 8, embed_dim // 4):
                layers += [nn.Conv2d(width, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
                width = wider
            self.proj = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 1))
            self.norm = norm_layer(embed_dim)

        def forward(self, x):
            return self.norm(self.proj(x).permute(0, 2, 3, 1))

    def names(name, all_names):
        if "attn_mask" in name or "relative_position_index" in name or name.startswith("head."):
            return None
        # timm once had a stage's patch merging at the end of the one before.
        if any(n.startswith("layers.0.downsample.") for n in all_names):
            return re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        return name

    model = SwinTransformer(
        img_size=224, patch_size=4, window_size=7, embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24),
        embed_layer=ConvStem, num_classes=0,
    )
    return model, names


def below(prefix):
    """Names below a prefix."""
    return lambda name, _: name.removeprefix(prefix) if name.startswith(prefix) else None


def quiltnet():
    """open_clip's CLIP ViT-B/32: the projected image embedding, not normalised."""
    import open_clip

    return open_clip.create_model("ViT-B-32", pretrained=None).visual, below("visual.")


def biomedclip():
    """open_clip's wrapper of timm's ViT-B/16: the projected image embedding, not normalised."""
    from open_clip.timm_model import TimmModel

    return TimmModel("vit_base_patch16_224", 512, image_size=224, pool="", proj="linear"), below("visual.")


def plip():
    """transformers' CLIP ViT-B/32: the projected image embedding, not normalised."""
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32, image_size=224,
        hidden_act="quick_gelu", projection_dim=512, attn_implementation="eager",
    )

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.clip = transformers.CLIPVisionModelWithProjection(config)

        def forward(self, x):
            return self.clip(pixel_values=x).image_embeds

    tower = Tower()
    # Releases of transformers differ in what stands before the tensors' names; their ends are the same.
    own = {name.removeprefix("clip.").removeprefix("vision_model."): name for name in tower.state_dict()}

    def names(name, _):
        if not name.startswith(("vision_model.", "visual_projection.")) or name.endswith("position_ids"):
            return None
        return own.get(name.removeprefix("vision_model."), name)

    return tower, names


ENCODERS = {
    "resnet50-clam": resnet50_clam, "ctranspath": ctranspath, "ctranspath-chief": ctranspath, "quiltnet-b32": quiltnet,
    "plip": plip, "biomedclip": biomedclip,
}


def traced(card):
    """The model of a card of route torch, with any weights, and its names."""
    if card["id"] not in ENCODERS:
        raise Unreadable(f"'{card['id']}' has no recipe in scripts/export_torch.py; there is one of {', '.join(ENCODERS)}")
    return ENCODERS[card["id"]]()


def loaded(card, weights):
    """The same with the weights of a file: every tensor of the model is there, and none is left over."""
    model, names = traced(card)
    tensors = weights_file.read(weights)
    for wrapper in ("state_dict.", "model."):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    state = {names(name, tensors): tensor for name, tensor in tensors.items()}
    state.pop(None, None)
    wanted = model.state_dict()
    # How often a norm was trained: older files do not have it, and nothing is computed from it.
    state |= {n: t.numpy() for n, t in wanted.items() if n.endswith("num_batches_tracked") and n not in state}
    state |= {n: t.numpy() for n, t in wanted.items() if n.endswith("position_ids")}
    missing = [name for name in wanted if name not in state]
    other = [name for name in state if name not in wanted]
    if missing or other:
        what, which = ("missing", missing) if missing else ("not known to the model", other)
        raise Unreadable(f"{len(which)} tensors are {what}, the first: {', '.join(which[:3])}")
    for name, tensor in wanted.items():
        if state[name].shape != tuple(tensor.shape):
            raise Unreadable(f"{name} is {state[name].shape}, the model has {tuple(tensor.shape)}")
        if not np.isfinite(state[name]).all():
            raise Unreadable(f"{name} has values that are not finite")
    model.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in state.items()}, strict=True)
    return Encoder(model, card["input"]["mean"], card["input"]["std"])


class WholeNorm(nn.Module):
    """A norm in float32 within a model in float16, as in graphs of route `direct`."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm.float()

    def forward(self, x):
        return self.norm(x.float()).half()


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of one sequence. torch's own swaps batch and tokens before the first product, at which the layout
    optimiser of ONNX Runtime 1.31.1 crashes in float16."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x, *_, **__):
        own, (batch, tokens, width) = self.attention, x.shape
        x = nn.functional.linear(x, own.in_proj_weight, own.in_proj_bias)
        query, key, value = x.reshape(batch, tokens, 3, own.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(query, key, value)
        return own.out_proj(x.transpose(1, 2).reshape(batch, tokens, width)), None


class Exported(nn.Module):
    """What the graph computes: an encoder, its model in float16 where that is wanted."""

    def __init__(self, encoder, half):
        super().__init__()
        self.encoder, self.half_precision = encoder, half
        if half:
            encoder.backbone.half()
        for module in [*encoder.backbone.modules()]:
            for name, inner in module.named_children():
                if isinstance(inner, nn.LayerNorm) and half:
                    setattr(module, name, WholeNorm(inner))
                if isinstance(inner, nn.MultiheadAttention):
                    setattr(module, name, SelfAttention(inner))

    def forward(self, image):
        x = self.encoder.normalised(image)
        return self.encoder.pool(self.encoder.backbone(x.half() if self.half_precision else x)).float()


# The output's name until the graph is whole: torch gives inner values names like `embedding` without looking.
OUTPUT = "encoder output"


def trace(model, example, path, name):
    """torch's export, with the first axis free. An example of 1 would be taken for a constant."""
    with torch.no_grad():
        torch.onnx.export(
            model, (example,), str(path), dynamo=True, opset_version=18, input_names=[name], output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},), external_data=False, verbose=False,
        )


def export(card, weights, precision, path, metadata):
    """Traces the encoder of a card with the weights of a file, and writes the graph."""
    px, half = card["input"]["px"], precision == "fp16"
    trace(Exported(loaded(card, weights), half).eval(), torch.zeros((2, px, px, 3), dtype=torch.uint8), path, "image")
    model = onnx.load(path)
    # Where in which source file every node came from: other bytes on every machine.
    graph = model.graph
    parts = [model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, *model.functions]
    for part in [*parts, *(node for function in model.functions for node in function.node)]:
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    names = {"embedding": "embedding_0", OUTPUT: "embedding"}
    for node in graph.node:
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    graph.output[0].name = "embedding"
    graph.name, model.ir_version, model.producer_version = card["id"], 10, ""
    model.producer_name = "paraffin scripts/export_onnx.py"
    helper.set_model_props(model, dict(sorted(metadata.items())))
    shape = [d.dim_value or d.dim_param for d in graph.output[0].type.tensor_type.shape.dim]
    if len(shape) != 2 or shape[1] != card["output"]["dim"]:
        raise Unreadable(f"the traced graph gives {shape}, the card says {card['output']['dim']} values")
    if model.ByteSize() > vit_onnx.EMBEDDED_BYTES:
        onnx.external_data_helper.convert_model_to_external_data(model, location=f"{path.name}.data")
        onnx.external_data_helper.write_external_data_tensors(model, str(path.parent))
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path))
