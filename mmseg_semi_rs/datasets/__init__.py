# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Datasets, samplers and transforms for labelled and unlabelled images."""

from .deepglobe import DeepGlobeDataset
from .samplers import RareClassSemiSampler, SemiSampler
from .semi_dataset import SemiDataset
from .transforms import AddValidMask, MultiBranch, PackSemiInputs, TrackGeometry

__all__ = [
    'AddValidMask',
    'DeepGlobeDataset',
    'MultiBranch',
    'PackSemiInputs',
    'RareClassSemiSampler',
    'SemiDataset',
    'SemiSampler',
    'TrackGeometry',
]
