# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Evaluation metrics."""

from .. import compat  # noqa: F401 - mends the OpenMMLab packages before others import them
from .calibration_error_metric import CalibrationErrorMetric, expected_calibration_error
from .subset_iou_metric import SubsetIoUMetric, confusion_matrix, scores_per_class

__all__ = [
    'CalibrationErrorMetric',
    'SubsetIoUMetric',
    'confusion_matrix',
    'expected_calibration_error',
    'scores_per_class',
]
