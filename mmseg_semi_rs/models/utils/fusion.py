# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Fusion of the predictions of two networks."""

from __future__ import annotations

import math

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

FUSIONS = ('mean_prob', 'confidence')


def fuse_logits(first: Tensor, second: Tensor, fusion: str, dim: int = 1) -> Tensor:
    """Fuse the predictions of two networks.

    Args:
        first: Logits, with the classes in ``dim``.
        second: Logits of the same shape.
        fusion: 'mean_prob': mean of the probabilities. 'confidence': probabilities of the network
            with the larger maximum, or of the first if both are equal.
        dim: Axis of the classes.

    Returns:
        Log probabilities, float32, of the same shape.
    """
    first, second = (logits.float().log_softmax(dim) for logits in (first, second))
    if fusion == 'mean_prob':
        return torch.logaddexp(first, second) - math.log(2.0)
    surer = second.amax(dim, keepdim=True) > first.amax(dim, keepdim=True)
    return torch.where(surer, second, first)


def fuse(first: SegDataSample, second: SegDataSample, fusion: str) -> SegDataSample:
    """Fuse two networks' predictions of one image, see :func:`fuse_logits`.

    Args:
        first: Prediction with ``seg_logits``, shape (K, H, W).
        second: Likewise.
        fusion: 'mean_prob' or 'confidence'.

    Returns:
        A sample with the fused ``seg_logits`` and ``pred_sem_seg``.
    """
    logits = fuse_logits(first.seg_logits.data, second.seg_logits.data, fusion, dim=0)
    fused = first.clone()
    fused.set_data({
        'seg_logits': PixelData(data=logits),
        'pred_sem_seg': PixelData(data=logits.argmax(dim=0, keepdim=True)),
    })  # fmt: skip
    return fused
