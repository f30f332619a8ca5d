# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What is done with a trained model: prediction on images and rasters, export."""

from .export import export_network, take_network
from .export_onnx import export_onnx
from .maps import Layers
from .prediction import Predicted, predict_files, predict_image
from .predictor import Predictor, load_predictor

__all__ = [
    'Layers',
    'Predicted',
    'Predictor',
    'export_network',
    'export_onnx',
    'load_predictor',
    'predict_files',
    'predict_image',
    'take_network',
]
