# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Samplers that mix labelled and unlabelled data."""

from .rare_class_sampler import RareClassSemiSampler
from .semi_sampler import SemiSampler

__all__ = ['RareClassSemiSampler', 'SemiSampler']
