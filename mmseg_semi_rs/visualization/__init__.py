# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures of images, labels and predictions."""

from .panels import colorize, compare_maps, denormalise, draw_panels, legend, overlay, save_picture

__all__ = [
    'colorize',
    'compare_maps',
    'denormalise',
    'draw_panels',
    'legend',
    'overlay',
    'save_picture',
]
