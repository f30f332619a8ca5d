# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones, teachers, heads, segmentors and losses."""

from .backbones import CLIPVision, DINOv2
from .data_preprocessor import SemiDataPreprocessor
from .decode_heads import MultiTeacherDistillHead, SizeMatchedDPTHead
from .losses import ValidCrossEntropyLoss
from .segmentors import DistillEncoderDecoder, MeanTeacherSegmentor
from .teachers import FrozenTeacher

__all__ = [
    'CLIPVision',
    'DINOv2',
    'DistillEncoderDecoder',
    'FrozenTeacher',
    'MeanTeacherSegmentor',
    'MultiTeacherDistillHead',
    'SemiDataPreprocessor',
    'SizeMatchedDPTHead',
    'ValidCrossEntropyLoss',
]
