# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Self-attention with DINOv3's rotary positions (Simeoni et al., arXiv 2508.10104, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ROPE_BASE = 100.0


def rotary_periods(width: int, device: torch.device | None = None) -> Tensor:
    """Periods of the rotary position embedding, in units of half an image side.

    Args:
        width: Channels of a head, a multiple of 4.
        device: Device of the result. Defaults to None, the current default device.

    Returns:
        Shape (width / 4,), fp32, rising from 1 towards 100.
    """
    steps = torch.arange(width // 4, device=device, dtype=torch.float32)
    return _ROPE_BASE ** (steps / (width // 4))


def rotary_embedding(
    grid: tuple[int, int], width: int, device: torch.device | None = None
) -> Tensor:
    """Sines and cosines that rotate queries and keys according to the position of their patch.

    The centres of patches have coordinates in (-1, 1) along rows and columns, for any image size.
    An angle is 2 pi times a coordinate over a period. Computed in fp32, without reading from the
    device.

    Args:
        grid: Numbers of rows and columns of patches, h and w.
        width: Channels of a head, a multiple of 4.
        device: Device of the result. Defaults to None, the current default device.

    Returns:
        Shape (h * w, 2 * width): sines, then cosines; channels are (rows, columns), twice.
    """
    centres = [
        2 * torch.arange(0.5, side, device=device, dtype=torch.float32) / side - 1 for side in grid
    ]
    places = torch.stack(torch.meshgrid(*centres, indexing='ij'), dim=-1).flatten(0, 1)
    angles = 2 * math.pi * places[..., None] / rotary_periods(width, device)
    angles = angles.flatten(1).tile(2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotate(vectors: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the vectors of patches, which come last; the tokens before them have no position.

    Args:
        vectors: Shape (..., N, width).
        rotation: From :func:`rotary_embedding`, for the last h * w <= N tokens, fp32.

    Returns:
        The same shape and dtype; the rotation is computed in fp32.
    """
    from timm.layers import apply_rot_embed_cat

    first = vectors.shape[-2] - rotation.shape[0]
    turned = apply_rot_embed_cat(vectors[..., first:, :], rotation, half=True)
    return torch.cat([vectors[..., :first, :], turned.to(vectors.dtype)], dim=-2)


class RotaryAttention(nn.Module):
    """DINOv3's attention, with the parameter names of timm's ``EvaAttention`` but less memory.

    Queries and keys are computed separately from the values. With one fused tensor the backward
    pass would store all three parts for the sake of the values, besides the rotated queries and
    keys; this is a seventh of what a block stores. The key has no bias, not even as a buffer.

    Args:
        width: Channels, a multiple of ``heads``.
        heads: Number of heads, each with a multiple of 4 channels.
        qkv_bias: Whether query and value have a bias.
    """

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.proj = nn.Linear(width, width)

    def forward(
        self, tokens: Tensor, rope: Tensor, attn_mask: None = None, is_causal: bool = False
    ) -> Tensor:
        """Apply self-attention.

        Args:
            tokens: Shape (B, N, C).
            rope: From :func:`rotary_embedding`, for the last h * w tokens.
            attn_mask: Passed by timm's block; not used.
            is_causal: Likewise.

        Returns:
            Shape (B, N, C).
        """
        width = tokens.shape[-1]
        weight, value_weight = self.qkv.weight.split([2 * width, width])
        # The key, the second half, has no bias.
        bias = None if self.q_bias is None else F.pad(self.q_bias, (0, width))
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (
                *F.linear(tokens, weight, bias).chunk(2, dim=-1),
                F.linear(tokens, value_weight, self.v_bias),
            )
        )
        mixed = F.scaled_dot_product_attention(rotate(query, rope), rotate(key, rope), value)
        return self.proj(mixed.transpose(1, 2).flatten(2))
