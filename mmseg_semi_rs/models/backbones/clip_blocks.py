# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The value path of CLIP's blocks (MaskCLIP, Zhou et al., arXiv 2112.01071); a lean QuickGELU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def run_value_path(block: Any, tokens: Tensor) -> Tensor:
    """Run a block as if each token attended only to itself; only the values are computed.

    Args:
        block (ResidualAttentionBlock): A block of open_clip.
        tokens: Shape (B, N, C).

    Returns:
        Shape (B, N, C): y + FFN(LN2(y)) for y = tokens + out_proj(v).
    """
    attn = block.attn
    values = slice(2 * attn.embed_dim, None)
    value = F.linear(block.ln_1(tokens), attn.in_proj_weight[values], attn.in_proj_bias[values])
    return _finish(block, tokens, value)


def run_both_paths(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Run a block normally and by its value path, computing query, key and value once.

    Args:
        block (ResidualAttentionBlock): A block of open_clip.
        tokens: Shape (B, N, C).

    Returns:
        The block's output and that of :func:`run_value_path`, each of shape (B, N, C).
    """
    attn = block.attn
    parts = F.linear(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    heads = [part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in parts]
    mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    return _finish(block, tokens, mixed), _finish(block, tokens, parts[2])


def _finish(block: Any, tokens: Tensor, values: Tensor) -> Tensor:
    """Run the part of a block after its attention."""
    tokens = tokens + block.ls_1(block.attn.out_proj(values))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


class LeanQuickGELU(nn.Module):
    """open_clip's QuickGELU, x * sigmoid(1.702 x), storing only its input for the backward pass.

    Autograd would also store the sigmoid, which is as wide as the feed-forward layer and makes up a
    quarter of what a block stores.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Apply the activation to a tensor of any shape; bit-equal to open_clip's."""
        return _QuickGELUFunction.apply(features)


class _QuickGELUFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return features * torch.sigmoid(1.702 * features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # QuickGELU(x) = SiLU(1.702 x) / 1.702
        (features,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient, 1.702 * features)
