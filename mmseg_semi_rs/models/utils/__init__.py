# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Functions and modules that several models share."""

from .cutmix import CutMix
from .early_gradients import early_backward
from .norm import forget_recomputation, keep_running_statistics
from .options import read_cfg
from .renormalise import Renormalise

__all__ = [
    'CutMix',
    'Renormalise',
    'early_backward',
    'forget_recomputation',
    'keep_running_statistics',
    'read_cfg',
]
