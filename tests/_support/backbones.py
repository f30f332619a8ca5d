# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Foundation models of a few thousand parameters."""

import timm
import torch

from mmseg_semi_rs.models.backbones import CLIPVision, DINOv2, DINOv3

TINY = dict(embed_dims=16, num_layers=4, num_heads=2)


TINY_DINOV3 = dict(embed_dims=16, num_layers=3, num_heads=2)


TINY_CLIP = dict(width=16, layers=3, heads=2, patch_size=8, image_size=32)


def tiny_dinov2(**kwargs) -> DINOv2:
    torch.manual_seed(0)
    arch = {**TINY, 'swiglu': kwargs.pop('swiglu', False)}
    backbone = DINOv2(arch=arch, **{'img_size': 56, **kwargs})
    backbone.init_weights()
    with torch.no_grad():  # away from ones and zeros, so that every tensor matters
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return backbone.eval()


def tiny_clip(**kwargs) -> CLIPVision:
    torch.manual_seed(0)
    backbone = CLIPVision(arch={**TINY_CLIP, **kwargs.pop('arch', {})}, **kwargs)
    backbone.init_weights()
    return backbone.eval()


def timm_clip() -> torch.nn.Module:
    """timm's CLIP of the size of :func:`tiny_clip`, in evaluation mode."""
    torch.manual_seed(0)
    sizes = dict(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=8)
    return timm.create_model('vit_base_patch16_clip_quickgelu_224', **sizes).eval()


def tiny_dinov3(**kwargs) -> DINOv3:
    torch.manual_seed(0)
    backbone = DINOv3(arch={**TINY_DINOV3, 'swiglu': kwargs.pop('swiglu', False)}, **kwargs)
    backbone.init_weights()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return backbone.eval()


TINY_OPENAI = dict(
    width=16, depth=3, patch=8, grid=4, embed=8, text_width=8, text_depth=1, vocabulary=49
)
