# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Data passed between the parts: pseudo labels, and the record of a training step."""

from .pseudo_label import PseudoLabel, SoftLabel
from .step_record import StepRecord

__all__ = ['PseudoLabel', 'SoftLabel', 'StepRecord']
