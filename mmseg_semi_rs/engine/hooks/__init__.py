# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Hooks that connect the models to the runner."""

from .channels_last_hook import ChannelsLastHook
from .deferred_runtime_info_hook import DeferredRuntimeInfoHook
from .mean_teacher_hook import MeanTeacherHook, ema_keep
from .pseudo_label_guard_hook import PseudoLabelGuardHook
from .pseudo_label_stats_hook import PseudoLabelStatsHook
from .semi_vis_hook import SemiVisHook
from .vlm_purify_hook import VLMPurifyHook, purification_stats

__all__ = [
    'ChannelsLastHook',
    'DeferredRuntimeInfoHook',
    'MeanTeacherHook',
    'PseudoLabelGuardHook',
    'PseudoLabelStatsHook',
    'SemiVisHook',
    'VLMPurifyHook',
    'ema_keep',
    'purification_stats',
]
