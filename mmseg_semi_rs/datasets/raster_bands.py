# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The reader of pixels, under the name by which scripts that use the data sets import it."""

from ..rasters.levels import RasterToBands, RasterToRGB
from ..rasters.reader import RGBPixels, read_rgb

__all__ = ['RGBPixels', 'RasterToBands', 'RasterToRGB', 'read_rgb']
