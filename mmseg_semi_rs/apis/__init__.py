# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Use of a trained model: prediction on images and rasters, and export."""

from .. import compat  # noqa: F401 - mends the OpenMMLab packages before others import them
from .export import export_network, take_network
from .maps import Layers
from .onnx_export import export_onnx
from .prediction import Predicted, predict_files, predict_image
from .predictor import Predictor, load_predictor
from .pt2_export import export_pt2

__all__ = [
    'Layers',
    'Predicted',
    'Predictor',
    'export_network',
    'export_onnx',
    'export_pt2',
    'load_predictor',
    'predict_files',
    'predict_image',
    'take_network',
]
