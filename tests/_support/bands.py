# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters of five bands in units of their own, as a config reads them."""

import numpy as np

from tests._support.rasters import write_raster

LOW, HIGH = [0, 0, 0, 100, -50], [1000, 1000, 1000, 5100, 50]
RASTER = dict(low=LOW, high=HIGH, rgb=[3, 2, 1], count=5)
RGB = [2, 1, 0]  # places of red, green and blue among the channels
STATISTICS = dict(mean=[120.0, 125, 130, 135, 140], std=[70.0, 71, 72, 73, 74])


def stack(height=40, width=30, seed=0):
    """Noise within the stretch, (5, height, width) float32."""
    low, high = (np.array(ends, np.float32)[:, None, None] for ends in (LOW, HIGH))
    noise = np.random.default_rng(seed).random((5, height, width))
    return (low + noise * (high - low)).astype(np.float32)


def write_bands(path, bands, **more):
    """Write bands (B, H, W) as GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = dict(dict(photometric='minisblack'), **more)
    return write_raster(path, bands.transpose(1, 2, 0), **settings)
