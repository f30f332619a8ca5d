# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Fabricated pictures, and rasters of them."""

import numpy as np
import pytest

#: Least and greatest values of five bands.
LOW, HIGH = [0, 0, 0, 100, -50], [1000, 1000, 1000, 5100, 50]


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return coarse.repeat(4, 0).repeat(4, 1)[:height, :width]


def write_raster(path, image, **more):
    rasterio = pytest.importorskip('rasterio')
    image = image[..., None] if image.ndim == 2 else image
    profile = dict(
        driver='GTiff',
        height=image.shape[0],
        width=image.shape[1],
        count=image.shape[2],
        dtype=str(image.dtype),
        crs='EPSG:32633',
        transform=rasterio.Affine(0.5, 0.1, 400000, 0.1, -0.5, 5800000),
    )
    with rasterio.open(path, 'w', **{**profile, **more}) as raster:
        raster.write(image.transpose(2, 0, 1))
    return path


def write_bands(path, bands, **profile):
    rasterio = pytest.importorskip('rasterio')
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    kind = dict(dtype=bands.dtype, photometric='minisblack', driver='GTiff')
    with rasterio.open(
        path, 'w', width=width, height=height, count=count, **{**kind, **profile}
    ) as out:
        out.write(bands)
    return path
