# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Losses over valid pixels."""

from .masked_cross_entropy import ValidCrossEntropyLoss, consistency_loss
from .rank_sum import RankSum

__all__ = ['RankSum', 'ValidCrossEntropyLoss', 'consistency_loss']
