# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones, class embeddings, teachers, heads, segmentors and losses."""

from .. import compat  # noqa: F401 - mends the OpenMMLab packages before others import them
from .backbones import CLIPVision, DINOv2, DINOv3, EfficientNetLite
from .class_embeddings import LearnableQueries, TextEmbedding
from .data_preprocessor import SemiDataPreprocessor
from .decode_heads import MultiTeacherDistillHead, SizeMatchedDPTHead, VLGHead
from .gates import (
    AdaptiveGate,
    ClassQuantileGate,
    ConformalGate,
    FixedGate,
    ResidualGate,
    SoftGate,
)
from .losses import ValidCrossEntropyLoss
from .segmentors import DistillEncoderDecoder, DualStudentSegmentor, MeanTeacherSegmentor
from .teachers import FrozenTeacher

__all__ = [
    'AdaptiveGate',
    'CLIPVision',
    'ClassQuantileGate',
    'ConformalGate',
    'DINOv2',
    'DINOv3',
    'DistillEncoderDecoder',
    'DualStudentSegmentor',
    'EfficientNetLite',
    'FixedGate',
    'FrozenTeacher',
    'LearnableQueries',
    'MeanTeacherSegmentor',
    'MultiTeacherDistillHead',
    'ResidualGate',
    'SemiDataPreprocessor',
    'SizeMatchedDPTHead',
    'SoftGate',
    'TextEmbedding',
    'VLGHead',
    'ValidCrossEntropyLoss',
]
