# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pseudo labels corrected by evidence that does not come from the segmentation network."""

from .. import compat  # noqa: F401 - mends the OpenMMLab packages before others import them
from .evidence import Evidence, Region, quantise
from .policy import EvidencePolicy, ReleasedPolicy
from .prompts import PROMPTS, ClassPrompts
from .purifier import EvidencePurifier

__all__ = [
    'PROMPTS',
    'ClassPrompts',
    'Evidence',
    'EvidencePolicy',
    'EvidencePurifier',
    'Region',
    'ReleasedPolicy',
    'quantise',
]
