# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Correction of pseudo labels by evidence that does not come from the segmentation network."""

from .. import compat  # noqa: F401 - mends the OpenMMLab packages before others import them
from .conformal import ClassThresholds, ConformalThresholds
from .evidence import Evidence, Region, quantise
from .policy import EvidencePolicy, ReleasedPolicy
from .prompts import PROMPTS, ClassPrompts
from .proposers import RegionProposer, SAMProposer, SuperpixelProposer
from .purifier import EvidencePurifier, RegionPurifier
from .region_vote import RegionVote

__all__ = [
    'PROMPTS',
    'ClassPrompts',
    'ClassThresholds',
    'ConformalThresholds',
    'Evidence',
    'EvidencePolicy',
    'EvidencePurifier',
    'Region',
    'RegionProposer',
    'RegionPurifier',
    'RegionVote',
    'ReleasedPolicy',
    'SAMProposer',
    'SuperpixelProposer',
    'quantise',
]
