# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Class embeddings that are learnt from scratch."""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class LearnableQueries(BaseModule):
    """One learnable vector per class, as in the implicit guidance of Co2S's DINOv3 student.

    Args:
        num_classes: Number of classes N.
        channels: Width C, equal to that of the deep map they are compared with.
        std: Standard deviation of the normal distribution for initialisation.

    Raises:
        ValueError: If an argument is not positive.

    Examples:
        >>> LearnableQueries(num_classes=6)().shape
        torch.Size([6, 768])
    """

    def __init__(self, num_classes: int, channels: int = 768, std: float = 0.02) -> None:
        super().__init__()
        if min(num_classes, channels, std) <= 0:
            raise ValueError(
                'LearnableQueries needs positive arguments, got '
                f'num_classes={num_classes}, channels={channels}, std={std}.'
            )
        self.num_classes = num_classes
        self.channels = channels
        self.queries = nn.Parameter(torch.randn(num_classes, channels) * std)

    def forward(self) -> Tensor:
        """Return the embeddings, shape (num_classes, channels)."""
        return self.queries
