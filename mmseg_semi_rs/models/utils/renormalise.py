# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Conversion from one network's input statistics to another's."""

from __future__ import annotations

import torch
from mmseg.models import SegDataPreProcessor
from torch import Tensor, nn


class Renormalise(nn.Module):
    """Convert images normalised by one preprocessor into what another would have produced.

    Networks such as CLIP and DINOv3 get the same batch but need different statistics. Pixels x
    become (x * source std + source mean - target mean) / target std. Channels are reversed if only
    one of the two preprocessors converts BGR to RGB.

    Args:
        source: The preprocessor that normalised the images.
        target: The preprocessor to imitate.

    Raises:
        ValueError: If the two are for images of different numbers of channels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, source: SegDataPreProcessor, target: SegDataPreProcessor) -> None:
        super().__init__()
        (mean, std), (wanted_mean, wanted_std) = map(image_statistics, (source, target))
        if len(mean) != len(wanted_mean):
            raise ValueError(
                f'Images of {len(mean)} channels cannot become those of {len(wanted_mean)}: give '
                'the preprocessors of both networks mean and std of the same bands.'
            )
        self.reverse = source.channel_conversion != target.channel_conversion
        if self.reverse:
            mean, std = mean.flip(0), std.flip(0)
        self.register_buffer('scale', std / wanted_std, persistent=False)
        self.register_buffer('shift', (mean - wanted_mean) / wanted_std, persistent=False)
        identical = bool((self.scale == 1).all()) and bool((self.shift == 0).all())
        self.is_identity = identical and not self.reverse

    def forward(self, images: Tensor) -> Tensor:
        """Convert the images.

        Args:
            images: Shape (B, C, H, W), normalised by the source.

        Returns:
            Same shape, normalised as by the target; the input itself if nothing changes.
        """
        if self.is_identity:
            return images
        if self.reverse:
            images = images.flip(1)
        return torch.addcmul(self.shift, images, self.scale)


def image_statistics(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and std, (C, 1, 1), of a preprocessor's normalisation; 0 and 1 for raw pixels."""
    mean: Tensor = getattr(preprocessor, 'mean', torch.zeros(3, 1, 1))
    std: Tensor = getattr(preprocessor, 'std', torch.ones(3, 1, 1))
    return mean.detach().clone(), std.detach().clone()
