# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Decode heads: the size-matched DPT decoder and distillation around any decoder."""

from .distill_features import DistillFeatures
from .multi_teacher_distill_head import MultiTeacherDistillHead
from .size_matched_dpt_head import SizeMatchedDPTHead

__all__ = ['DistillFeatures', 'MultiTeacherDistillHead', 'SizeMatchedDPTHead']
