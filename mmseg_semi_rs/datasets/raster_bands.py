# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The reader of rasters, importable under the name that scripts of the data sets use."""

from ..rasters.levels import RasterToBands, RasterToRGB
from ..rasters.reader import RGBPixels, read_rgb

__all__ = ['RGBPixels', 'RasterToBands', 'RasterToRGB', 'read_rgb']
