# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Losses over valid pixels."""

from .masked_cross_entropy import ValidCrossEntropyLoss, consistency_loss
from .rank_sum import RankSum
from .stability import stability_loss, stability_ramp, taught_pixels

__all__ = [
    'RankSum',
    'ValidCrossEntropyLoss',
    'consistency_loss',
    'stability_loss',
    'stability_ramp',
    'taught_pixels',
]
