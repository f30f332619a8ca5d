# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What is done with a trained model: prediction on images and rasters, export."""

from .maps import Layers
from .prediction import Predicted, predict_files, predict_image
from .predictor import Predictor, load_predictor

__all__ = [
    'Layers',
    'Predicted',
    'Predictor',
    'load_predictor',
    'predict_files',
    'predict_image',
]
