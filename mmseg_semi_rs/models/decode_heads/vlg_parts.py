# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Spatial reasoning, semantic reasoning and upsampling of the vision-language guided decoder.

In all maps the class axis is folded into the batch, image by image: entry ``b * N + n`` belongs to
image ``b`` and class ``n``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels per GroupNorm group, everywhere in this decoder.
GROUP_WIDTH = 16


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(channels // GROUP_WIDTH, channels), nn.ReLU(inplace=True))


class SpatialReasoning(nn.Module):
    """Atrous spatial pyramid pooling with a residual, for every class separately.

    Five branches (1x1, three dilated 3x3, global average) are concatenated, mixed by a 1x1
    convolution and added to the input. Every convolution has no bias and is followed by GroupNorm
    and ReLU. The concatenated map is never built: each branch is convolved with its slice of the
    weight and the results are added, so that the pooled branch stays 1x1.

    Args:
        channels: Width of input, branches and output; a multiple of 16.
        dilations: Dilations of the 3x3 branches, in patches.
    """

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        kernels = [
            nn.Conv2d(channels, channels, 1, bias=False),
            *(
                nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate, bias=False)
                for rate in dilations
            ),
        ]
        self.branches = nn.ModuleList(nn.Sequential(conv, _norm_relu(channels)) for conv in kernels)
        self.pooled = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), _norm_relu(channels)
        )
        self.mix = nn.Conv2d((len(kernels) + 1) * channels, channels, 1, bias=False)
        self.mix_norm = _norm_relu(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Add spatial context to every patch.

        Args:
            maps: Shape (B * N, channels, h, w).

        Returns:
            Same shape.
        """
        weights = iter(self.mix.weight.split(self.mix.out_channels, dim=1))
        mixed = F.conv2d(self.branches[0](maps), next(weights))
        for branch in self.branches[1:]:
            mixed += F.conv2d(branch(maps), next(weights))
        mixed += F.conv2d(self.pooled(maps.mean((2, 3), keepdim=True)), next(weights))
        return maps + self.mix_norm(mixed)


class SemanticReasoning(nn.Module):
    """Attention between the classes at one place, with a residual.

    Maps are averaged over cells of ``pool`` x ``pool`` patches. In each cell the N classes are a
    sequence of tokens (image and text features) for one pre-norm transformer layer. The image part
    of its output is interpolated back to the patches and added. If the grid is not a multiple of
    ``pool``, it gets ceil(h / pool) x ceil(w / pool) evenly spread cells, which overlap by a patch.

    Args:
        channels: Width of the maps.
        text_channels: Width of the text features.
        heads: Attention heads; must divide ``channels + text_channels``.
        pool: Side of a cell in patches.
    """

    def __init__(self, channels: int, text_channels: int, heads: int, pool: int) -> None:
        super().__init__()
        self.channels = channels
        self.pool = pool
        self.layer = nn.TransformerEncoderLayer(
            channels + text_channels,
            heads,
            dim_feedforward=4 * channels,
            dropout=0.0,
            activation='gelu',
            batch_first=True,
            norm_first=True,
        )

    def forward(self, maps: Tensor, text: Tensor) -> Tensor:
        """Compare the classes.

        Args:
            maps: Shape (B * N, channels, h, w).
            text: Shape (N, text_channels).

        Returns:
            Shape of ``maps``.
        """
        size = (maps.shape[2], maps.shape[3])
        grid = (math.ceil(size[0] / self.pool), math.ceil(size[1] / self.pool))
        cells = F.adaptive_avg_pool2d(maps, grid)
        cells = cells.unflatten(0, (-1, len(text))).permute(0, 3, 4, 1, 2)  # B, h, w, N, channels
        tokens = torch.cat([cells, text.to(cells.dtype).expand(*cells.shape[:3], -1, -1)], dim=-1)
        tokens = self.layer(tokens.flatten(0, 2))[..., : self.channels]
        cells = tokens.unflatten(0, cells.shape[:3]).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return maps + F.interpolate(cells, size, mode='bilinear', align_corners=True)


class UpBlock(nn.Module):
    """Doubles the resolution and refines with a skip that all classes share.

    A transposed convolution, concatenation with the skip, and twice a 3x3 convolution (no bias),
    GroupNorm and ReLU. As in :class:`SpatialReasoning` nothing is concatenated: the skip's part of
    the first convolution is computed once per image and added for every class.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output; a multiple of 16.
        skip_channels: Width of the skip. The transposed convolution outputs ``in_channels -
            skip_channels``.
    """

    def __init__(self, in_channels: int, out_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels - skip_channels, 2, stride=2)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = _norm_relu(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = _norm_relu(out_channels)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        """Upsample and refine.

        Args:
            maps: Shape (B * N, in_channels, h, w).
            skip: Shape (B, skip_channels, h', w'), of any size.

        Returns:
            Shape (B * N, out_channels, 2 * h, 2 * w).
        """
        maps = self.up(maps)
        skip = F.interpolate(skip, maps.shape[2:], mode='bilinear', align_corners=True)
        own, shared = self.conv1.weight.split([maps.shape[1], skip.shape[1]], dim=1)
        maps = F.conv2d(maps, own, padding=1)
        maps.unflatten(0, (skip.shape[0], -1)).add_(F.conv2d(skip, shared, padding=1).unsqueeze(1))
        return self.norm2(self.conv2(self.norm1(maps)))
