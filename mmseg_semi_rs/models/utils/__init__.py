# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Parts that models share."""

from .cutmix import CutMix
from .norm import keep_running_statistics

__all__ = ['CutMix', 'keep_running_statistics']
