# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Token-wise maps between the feature spaces of student and teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def tokens_of(features: Tensor) -> Tensor:
    """Turn a map of shape (B, C, h, w) into tokens of shape (B, h * w, C)."""
    return features.flatten(2).transpose(1, 2)


def map_of(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Turn tokens of shape (B, h * w, C) into a map of shape (B, C, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def resample_tokens(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a feature map to another grid over the same image.

    Downsampling averages (the triangle filter of antialiased bilinear resizing covers every input
    token); upsampling interpolates. Runs in float32, which every device supports.

    Args:
        features: Shape (B, C, h, w).
        grid: Height and width of the result.

    Returns:
        Shape (B, C, *grid); ``features`` itself if it already has this grid.
    """
    if tuple(features.shape[2:]) == tuple(grid):
        return features
    resampled = F.interpolate(
        features.float(), grid, mode='bilinear', align_corners=False, antialias=True
    )
    return resampled.to(features.dtype)


class TokenTranslator(nn.Module):
    """Predicts a teacher's patch features from the student's: Linear, ReLU, Linear per token.

    RS-MTDF's feature translator, without normalisation and with PyTorch's default initialisation.

    Args:
        in_channels: Width of the student's tokens.
        hidden_channels: Width between the two layers; the paper uses 1024.
        out_channels: Width of the teacher's tokens.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Translate a map of shape (B, in_channels, h, w) to (B, out_channels, h, w)."""
        grid = (features.shape[2], features.shape[3])
        return map_of(self.fc2(F.relu(self.fc1(tokens_of(features)))), grid)


class TokenProjection(nn.Linear):
    """Linear layer on each token of a feature map, from teacher space to student space."""

    def forward(self, features: Tensor) -> Tensor:
        """Project a map of shape (B, in_features, h, w) to (B, out_features, h, w)."""
        grid = (features.shape[2], features.shape[3])
        return map_of(super().forward(tokens_of(features)), grid)
