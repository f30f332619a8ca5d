# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures of images, labels and predictions."""

from .panels import colorize, denormalise, draw_panels, legend, overlay, save_picture

__all__ = ['colorize', 'denormalise', 'draw_panels', 'legend', 'overlay', 'save_picture']
