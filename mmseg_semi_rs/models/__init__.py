# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones, class embeddings, teachers, heads, segmentors and losses."""

from .backbones import CLIPVision, DINOv2, DINOv3, EfficientNetLite
from .class_embeddings import LearnableQueries, TextEmbedding
from .data_preprocessor import SemiDataPreprocessor
from .decode_heads import MultiTeacherDistillHead, SizeMatchedDPTHead, VLGHead
from .losses import ValidCrossEntropyLoss
from .segmentors import DistillEncoderDecoder, DualStudentSegmentor, MeanTeacherSegmentor
from .teachers import FrozenTeacher

__all__ = [
    'CLIPVision',
    'DINOv2',
    'DINOv3',
    'DistillEncoderDecoder',
    'DualStudentSegmentor',
    'EfficientNetLite',
    'FrozenTeacher',
    'LearnableQueries',
    'MeanTeacherSegmentor',
    'MultiTeacherDistillHead',
    'SemiDataPreprocessor',
    'SizeMatchedDPTHead',
    'TextEmbedding',
    'VLGHead',
    'ValidCrossEntropyLoss',
]
