# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Batches of several branches, normalised and padded on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import stack_batch
from torch import Tensor


@MODELS.register_module()
class SemiDataPreprocessor(SegDataPreProcessor):
    """``SegDataPreProcessor`` for batches with branches.

    Every branch is padded (right and bottom, raw value ``pad_val``) and normalised. All branches
    get the same size, since labelled and strong images pass through the student together. Padded
    pixels get the label ``seg_pad_val`` and ``valid`` False, also those that transforms padded.
    Batches without branches, as in validation, are left to the parent class.

    Args:
        rgb: For multi-band images: positions, from 0, of the red, green and blue channel, for
            visualisation. Defaults to None: images are RGB or BGR, according to ``bgr_to_rgb``.
        **kwargs: Arguments of ``SegDataPreProcessor``: ``mean``, ``std`` (any number of channels,
            0-255 scale), ``bgr_to_rgb``, ``size`` (H, W) or ``size_divisor``, ``pad_val``,
            ``seg_pad_val``, ``test_cfg``.

    Raises:
        ValueError: If the arguments are wrapped as in mmdet's ``MultiBranchDataPreprocessor``, if
            ``rgb`` does not name three of the channels, or if ``bgr_to_rgb`` is set and there are
            not three channels.
    """

    def __init__(self, rgb: Sequence[int] | None = None, **kwargs: Any) -> None:
        if 'data_preprocessor' in kwargs:
            raise ValueError(
                'SemiDataPreprocessor has no other one inside: give it the arguments of that '
                'data_preprocessor itself, such as mean and std.'
            )
        super().__init__(**kwargs)
        channels = len(kwargs.get('mean') or (0, 0, 0))
        if self.channel_conversion and channels != 3:
            raise ValueError(
                f'bgr_to_rgb=True turns the order of three channels, and mean has {channels}: '
                'leave it out, and name the channels of pictures by rgb.'
            )
        if rgb is not None and (len(rgb) != 3 or not 0 <= min(rgb) <= max(rgb) < channels):
            raise ValueError(
                f'rgb={list(rgb)} of the data_preprocessor are not three of its {channels} '
                'channels: give the positions of red, green and blue, from 0.'
            )
        self.rgb = None if rgb is None else list(rgb)

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Prepare one batch.

        Args:
            data: ``inputs`` and ``data_samples``, each ``{branch: list}`` with None where a sample
                has no such branch, or plain lists.
            training: Whether the batch is a training batch.

        Returns:
            ``inputs`` ``{branch: Tensor (B, C, H, W)}`` and ``data_samples`` ``{branch:
            list[SegDataSample]}``, for branches that have samples.

        Raises:
            ValueError: If an image is larger than ``size``.
        """
        if not isinstance(data['inputs'], dict):
            return super().forward(data, training)
        data = self.cast_data(data)
        images = {
            branch: kept
            for branch, listed in data['inputs'].items()
            if (kept := [image for image in listed if image is not None])
        }
        size = self._common_size(images)
        inputs, samples = {}, {}
        for branch in images:
            stacked, samples[branch] = stack_batch(
                images[branch],
                [sample for sample in data['data_samples'][branch] if sample is not None],
                size=size,
                pad_val=self.pad_val,
                seg_pad_val=self.seg_pad_val,
            )
            if self.channel_conversion:
                stacked = stacked[:, [2, 1, 0]]
            stacked = stacked.float()
            if self._enable_normalize:
                stacked = (stacked - self.mean) / self.std
            inputs[branch] = stacked
            for sample in samples[branch]:
                _pad_valid(sample, stacked.shape[-2:])
                if 'gt_sem_seg' in sample and 'valid' in sample:  # transforms fill in 255
                    sample.gt_sem_seg.data.masked_fill_(~sample.valid.data, self.seg_pad_val)
        return {'inputs': inputs, 'data_samples': samples}

    def _common_size(self, images: dict[str, list[Tensor]]) -> tuple[int, int]:
        shapes = [image.shape[-2:] for listed in images.values() for image in listed]
        height, width = (max(sides) for sides in zip(*shapes, strict=True))
        if self.size is not None:
            if height > self.size[0] or width > self.size[1]:
                raise ValueError(
                    f'A batch has images of {height} x {width} pixels, more than '
                    f'data_preprocessor.size={tuple(self.size)}, to which they are padded: let '
                    'RandomCrop make crops of that size, or give size the larger one.'
                )
            return self.size
        divisor = self.size_divisor or 1
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def rgb_channels(preprocessor: Any, loaded: bool = False) -> list[int]:
    """Positions of red, green and blue among the channels of images, for visualisation.

    Args:
        preprocessor (SegDataPreProcessor): The model's preprocessor.
        loaded: Whether the images are as loaded, instead of as the preprocessor returns them.

    Returns:
        Three positions, from 0.
    """
    named = getattr(preprocessor, 'rgb', None)
    if named is not None:
        return list(named)
    turned = not loaded and getattr(preprocessor, 'channel_conversion', False)
    return [0, 1, 2] if turned else [2, 1, 0]


def _pad_valid(sample: SegDataSample, size: Sequence[int]) -> None:
    """Extend a sample's valid mask to the batch's size with False."""
    if 'valid' in sample:
        valid = _pad_false(sample.valid.data, size)
        del sample.valid
        sample.set_data({'valid': PixelData(data=valid)})


def _pad_false(mask: Tensor, size: Sequence[int]) -> Tensor:
    return F.pad(mask, (0, size[1] - mask.shape[-1], 0, size[0] - mask.shape[-2]), value=False)


def stack_valid(samples: Sequence[SegDataSample], size: Sequence[int], device: Any) -> Tensor:
    """Stack the valid masks of a branch.

    Args:
        samples: B samples; one without ``valid`` is valid except where the preprocessor padded it.
        size: Height and width of the batch in pixels.
        device (torch.device): Device of the result.

    Returns:
        Shape (B, H, W), bool.
    """
    masks = []
    for sample in samples:
        if 'valid' in sample:
            masks.append(_pad_false(sample.valid.data[0], size))
            continue
        _, right, _, bottom = sample.metainfo.get('padding_size', (0, 0, 0, 0))
        mask = torch.ones(tuple(size), dtype=torch.bool, device=device)
        mask[size[0] - bottom :] = False
        mask[:, size[1] - right :] = False
        masks.append(mask)
    return torch.stack(masks)
