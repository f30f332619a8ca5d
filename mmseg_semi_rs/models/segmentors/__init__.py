# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Segmentors that train on labelled and unlabelled images."""

from .distill_encoder_decoder import DistillEncoderDecoder, DistillFeatures
from .dual_student import DualStudentSegmentor
from .mean_teacher import MeanTeacherSegmentor
from .semi_segmentor import SemiSegmentor

__all__ = [
    'DistillEncoderDecoder',
    'DistillFeatures',
    'DualStudentSegmentor',
    'MeanTeacherSegmentor',
    'SemiSegmentor',
]
