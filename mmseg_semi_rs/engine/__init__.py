# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Loops, hooks and optimizer construction."""

from .. import compat  # noqa: F401 - mends the OpenMMLab packages before others import them
from .hooks import DeferredRuntimeInfoHook, MeanTeacherHook, PseudoLabelStatsHook
from .loops import SemiTrainLoop, TeacherStudentValLoop
from .optim_constructor import MergedParamGroupsConstructor

__all__ = [
    'DeferredRuntimeInfoHook',
    'MeanTeacherHook',
    'MergedParamGroupsConstructor',
    'PseudoLabelStatsHook',
    'SemiTrainLoop',
    'TeacherStudentValLoop',
]
