# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters by GDAL (rasterio): opening them, and reading bands of them, whole or by windows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .levels import RasterToBands, RasterToRGB


def import_rasterio(path: str | Path) -> ModuleType:
    """Import rasterio, which this file needs.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    try:
        import rasterio
    except ImportError as error:
        raise ImportError(
            f"{path} needs rasterio, which is not installed: pip install 'mmseg_semi_rs[geo]'."
        ) from error
    # For good and not for a while: filters are not of a thread but of the process.
    warnings.filterwarnings('ignore', category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """Open a raster by rasterio, silent about one that has no place on Earth.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: The file cannot be read; the message has the reason.
    """
    rasterio = import_rasterio(path)
    try:
        with rasterio.open(path) as raster:
            yield raster
    # of rasterio 1.3 the second is no subclass of the first
    except (rasterio.errors.RasterioError, rasterio.errors.RasterioIOError) as error:
        reason = ' '.join(str(error.__cause__ or error).split())
        raise ValueError(f'{path} cannot be read ({reason}): replace the file.') from error


def read_window(
    raster: Any, bands: Sequence[int], to_rgb: RasterToRGB, window: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a part of a raster that rasterio has open.

    Args:
        raster: ``rasterio.DatasetReader``.
        bands: As ``to_rgb`` has chosen them.
        to_rgb: What becomes of them.
        window: ``rasterio.windows.Window``; None reads all.

    Returns:
        Pixels as ``to_rgb`` makes them, (h, w, C), and where there is data, (h, w) bool.
    """
    stored = read_bands(raster, bands, window=window)
    valid = has_data(raster, stored, to_rgb, window)
    return to_rgb.with_data(to_rgb(stored), valid), valid


def count_bands(raster: Any) -> int:
    """Number of bands of a raster that rasterio has open; a palette makes one band three."""
    return raster.count if _palette(raster) is None else 3


def read_bands(
    raster: Any, bands: Sequence[int], size: tuple[int, int] | None = None, window: Any = None
) -> np.ndarray:
    """Read bands of a raster that rasterio has open, of a paletted one those of the colours.

    Samples of less than 8 bits are widened to 8, as decoders of PNG do.

    Args:
        raster: ``rasterio.DatasetReader``.
        bands: Their numbers, from 1 to :func:`count_bands`.
        size: (h, w) to shrink to; None leaves the size.
        window: ``rasterio.windows.Window`` to read; None reads all.

    Returns:
        Shape (len(bands), h, w).
    """
    palette = _palette(raster)
    stored = list(bands) if palette is None else [1]
    shape = None if size is None else (len(stored), *size)
    pixels = raster.read(stored, out_shape=shape, window=window)
    if palette is not None:
        return palette[np.array(bands) - 1][:, pixels[0]]
    bits = raster.tags(1, ns='IMAGE_STRUCTURE').get('NBITS')
    if bits and pixels.dtype == np.uint8:
        return np.rint(pixels * (255 / (2 ** int(bits) - 1))).astype(np.uint8)
    return pixels


def _palette(raster: Any) -> np.ndarray | None:
    """Colours of the values of a raster's only band, (3, values) uint8; None if it has none."""
    if raster.count != 1 or raster.colorinterp[0].name != 'palette':
        return None
    colours = np.zeros((3, np.iinfo(raster.dtypes[0]).max + 1), np.uint8)
    for value, colour in raster.colormap(1).items():
        colours[:, value] = colour[:3]
    return colours


def has_data(
    raster: Any, pixels: np.ndarray, to_rgb: RasterToRGB, window: Any = None
) -> np.ndarray:
    """Where a raster has data, (H, W): GDAL's mask, and :meth:`RasterToRGB.has_data`.

    A band that is read as data is no mask, even where the file marks it as alpha, as GDAL does with
    the fourth of four bands of 8 bits.
    """
    found = to_rgb.has_data(pixels)
    marks = [band.name for band in raster.colorinterp]
    read = to_rgb.bands or () if isinstance(to_rgb, RasterToBands) else ()
    if 'alpha' in marks and marks.index('alpha') + 1 in read:
        return found
    return found & (raster.dataset_mask(window=window, out_shape=pixels.shape[1:]) > 0)
