# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Hooks that connect the models to the runner."""

from .calibrate_gate_hook import CalibrateGateHook
from .channels_last_hook import ChannelsLastHook
from .deferred_runtime_info_hook import DeferredRuntimeInfoHook
from .finite_guard_hook import FiniteGuardHook
from .mean_teacher_hook import MeanTeacherHook, ema_keep
from .prediction_vis_hook import PredictionVisHook, WorstImagesHook
from .pseudo_label_guard_hook import PseudoLabelGuardHook
from .pseudo_label_stats_hook import PseudoLabelStatsHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .semi_vis_hook import SemiVisHook
from .vlm_purify_hook import VLMPurifyHook, purification_stats

__all__ = [
    'CalibrateGateHook',
    'ChannelsLastHook',
    'DeferredRuntimeInfoHook',
    'FiniteGuardHook',
    'MeanTeacherHook',
    'PredictionVisHook',
    'PseudoLabelGuardHook',
    'PseudoLabelStatsHook',
    'SafeCheckpointHook',
    'SemiVisHook',
    'VLMPurifyHook',
    'WorstImagesHook',
    'ema_keep',
    'purification_stats',
]
