# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Mean squared error between predicted and real teacher features, over valid tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import RankSum

TARGET_NORMS = ('none', 'channel', 'layernorm')


def valid_tokens(valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Reduce a pixel mask to a token grid; a token is valid only if all its pixels are.

    Tokens that contain any padding are excluded, since they would pull the student towards features
    of a black border. If the grid does not divide the image, a token covers every pixel it touches.

    Args:
        valid: False on padding, shape (B, H, W), bool.
        grid: Height and width of the token grid.

    Returns:
        Shape (B, *grid), bool.
    """
    padding = (~valid).unsqueeze(1).float()
    return F.adaptive_max_pool2d(padding, grid).squeeze(1) == 0


def normalise_target(target: Tensor, valid: Tensor, kind: str) -> Tensor:
    """Equalise the scale of a teacher's features before the student regresses them.

    A few CLIP channels are an order of magnitude larger than the others and may dominate a plain
    squared error.

    Args:
        target: Teacher features, shape (B, C, h, w), float32.
        valid: Valid tokens, shape (B, h, w), bool.
        kind: 'none' (as published). 'channel': zero mean and unit variance of each channel over the
            valid tokens of each image, independent of the other images of the batch. 'layernorm':
            the same over the channels of each token.

    Returns:
        Shape (B, C, h, w).
    """
    if kind == 'layernorm':
        channels = target.shape[1]
        return F.layer_norm(target.movedim(1, -1), (channels,)).movedim(-1, 1)
    if kind == 'channel':
        weight = valid.unsqueeze(1).to(target.dtype)
        count = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        mean = (target * weight).sum(dim=(2, 3), keepdim=True) / count
        centred = target - mean
        variance = (centred.square() * weight).sum(dim=(2, 3), keepdim=True) / count
        return centred * (variance + 1e-5).rsqrt()
    return target


def masked_feature_mse(
    prediction: Tensor, target: Tensor, valid: Tensor, denominator: RankSum
) -> Tensor:
    """Mean squared error over valid tokens and all channels (RS-MTDF, L_dino and L_clip).

    Computed in float32 outside autocast, because squares of large features overflow half precision.

    Args:
        prediction: The student's prediction, shape (B, C, h, w).
        target: The teacher's features, same shape.
        valid: Valid tokens, shape (B, h, w), bool.
        denominator: Number of valid tokens over all ranks.

    Returns:
        Scalar, float32.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        error = (prediction.float() - target.float()).square().mean(dim=1)
        return error.masked_fill(~valid, 0.0).sum() / denominator.per_rank()
