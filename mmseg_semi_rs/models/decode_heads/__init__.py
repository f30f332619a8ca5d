# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Decode heads: size-matched DPT, vision-language guided, and distillation around any decoder."""

from .distill_features import DistillFeatures
from .multi_teacher_distill_head import MultiTeacherDistillHead, with_image_stats
from .size_matched_dpt_head import SizeMatchedDPTHead
from .vlg_head import VLGHead

__all__ = [
    'DistillFeatures',
    'MultiTeacherDistillHead',
    'SizeMatchedDPTHead',
    'VLGHead',
    'with_image_stats',
]
