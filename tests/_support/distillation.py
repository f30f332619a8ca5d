# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Stand-ins for foundation models, and a head that learns from them."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import nn

PATCH = 8


WIDTH = 10


@MODELS.register_module(force=True)
class PatchColourTeacher:
    """Mean colour of each patch, spread over ``channels`` by a fixed matrix.

    Stands for FrozenTeacher: same interface, and it keeps a record of what was asked of it.
    """

    def __init__(self, channels=6, input_size=None, patch=PATCH, seed=0):
        self.channels, self.input_size, self.patch = channels, input_size, patch
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(channels, 3, generator=generator, device='cpu')
        self.builds, self.seen, self.source = 0, [], None

    def __deepcopy__(self, memo):
        return self

    def _apply(self, fn):
        self.matrix = fn(self.matrix)

    def input_shape(self, height, width):
        scale = self.input_size / max(height, width) if self.input_size else 1
        return tuple(round(side * scale / self.patch) * self.patch for side in (height, width))

    def grid(self, height, width):
        return tuple(side // self.patch for side in self.input_shape(height, width))

    def build(self, device):
        self.builds += 1

    def bind_source(self, mean, std):
        self.source = (list(mean), list(std))

    def __call__(self, images):
        self.seen.append(images)
        pooled = F.adaptive_avg_pool2d(images, self.grid(*images.shape[2:]))
        return torch.einsum('kc,bchw->bkhw', self.matrix, pooled).detach()


@MODELS.register_module(force=True)
class PatchBackbone(BaseModule):
    """Four taps on one patch grid, as a plain vision transformer has them."""

    def __init__(self, width=WIDTH, init_cfg=None):
        super().__init__(init_cfg)
        self.embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))

    def forward(self, images):
        features, taps = self.embed(images), []
        for block in self.blocks:
            features = features + block(F.gelu(features))
            taps.append(features)
        return tuple(taps)


DPT = dict(
    type='SizeMatchedDPTHead',
    in_channels=[WIDTH] * 4,
    post_process_channels=[4, 6, 8, 10],
    channels=6,
    num_classes=3,
)


TEACHERS = dict(
    dino=dict(type='PatchColourTeacher', channels=6),
    clip=dict(type='PatchColourTeacher', channels=9, input_size=32, seed=1),
)
