"""The part of the export that needs torch: reference models for checks, and encoders that torch itself exports."""

import torch
from torch import nn


class Encoder(nn.Module):
    """uint8 [batch, px, px, 3] to an embedding: normalises, runs `backbone`, pools."""

    def __init__(self, backbone, mean, std, pool=None):
        super().__init__()
        self.backbone, self.pool = backbone.eval(), pool or (lambda x: x)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    @torch.inference_mode()
    def forward(self, image):
        return self.compute(image)

    def compute(self, image):
        x = image.permute(0, 3, 1, 2).float() / 255
        return self.pool(self.backbone((x - self.mean) / self.std))


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
    return Encoder(model, card["input"]["mean"], card["input"]["std"], pooling(card["output"]["pooling"], prefix))
