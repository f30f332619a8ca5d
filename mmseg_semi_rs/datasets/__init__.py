# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Datasets, samplers and transforms for labelled and unlabelled images."""

from .. import compat  # noqa: F401 - mends the OpenMMLab packages before others import them
from .deepglobe import DeepGlobeDataset
from .folder_dataset import FolderDataset
from .gid15 import GID15Dataset
from .mars import MERDataset, MSLDataset
from .samplers import RareClassSemiSampler, SemiSampler
from .semi_dataset import SemiDataset
from .transforms import AddValidMask, MultiBranch, PackSemiInputs, TrackGeometry
from .whdld import WHDLDDataset

__all__ = [
    'AddValidMask',
    'DeepGlobeDataset',
    'FolderDataset',
    'GID15Dataset',
    'MERDataset',
    'MSLDataset',
    'MultiBranch',
    'PackSemiInputs',
    'RareClassSemiSampler',
    'SemiDataset',
    'SemiSampler',
    'TrackGeometry',
    'WHDLDDataset',
]
