# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Access to rasters by GDAL (rasterio): open them and read their bands, whole or by windows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .levels import RasterToBands, RasterToRGB, in_type


def import_rasterio(path: str | Path) -> ModuleType:
    """Import rasterio to read or write ``path``.

    Raises:
        ImportError: rasterio is not installed; the message names the extra.
    """
    try:
        import rasterio
    except ImportError as error:
        raise ImportError(
            f"{path} needs rasterio, which is not installed: pip install 'mmseg_semi_rs[geo]'."
        ) from error
    # Permanently, since warning filters belong to the process and not to a thread.
    warnings.filterwarnings('ignore', category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


@contextmanager
def open_raster(path: str | Path) -> Iterator[Any]:
    """Open a raster with rasterio, without a warning if it is not georeferenced.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: The file cannot be read; the message gives the reason.
    """
    rasterio = import_rasterio(path)
    try:
        with rasterio.open(path) as raster:
            yield raster
    # in rasterio 1.3 the second is not a subclass of the first
    except (rasterio.errors.RasterioError, rasterio.errors.RasterioIOError) as error:
        reason = ' '.join(str(error.__cause__ or error).split())
        raise ValueError(f'{path} cannot be read ({reason}): replace the file.') from error


def read_window(
    raster: Any, bands: Sequence[int], to_rgb: RasterToRGB, window: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read and convert a window of an open raster.

    Args:
        raster: ``rasterio.DatasetReader``.
        bands: Numbers of the bands, as chosen by ``to_rgb``.
        to_rgb: Conversion of the bands.
        window: ``rasterio.windows.Window``; None reads the whole raster.

    Returns:
        Converted pixels, (h, w, C), and the mask of valid data, (h, w) bool.
    """
    stored = read_bands(raster, bands, window=window)
    valid = has_data(raster, stored, to_rgb, window)
    pixels = to_rgb.with_data(to_rgb(stored), valid)
    if isinstance(to_rgb, RasterToBands):
        pixels[declared_gaps(raster, bands, stored).transpose(1, 2, 0)] = 0
    return pixels, valid


def count_bands(raster: Any) -> int:
    """Return the number of bands of an open raster; a palette counts as three bands."""
    return raster.count if _palette(raster) is None else 3


def read_bands(
    raster: Any, bands: Sequence[int], size: tuple[int, int] | None = None, window: Any = None
) -> np.ndarray:
    """Read bands of an open raster; for a paletted one, those of its colours.

    Samples of less than 8 bits are scaled to 8, as PNG decoders do.

    Args:
        raster: ``rasterio.DatasetReader``.
        bands: Numbers of the bands, from 1 to :func:`count_bands`.
        size: Size (h, w) to resample to; None keeps the size.
        window: ``rasterio.windows.Window`` to read; None reads the whole raster.

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
    """Return the colours of a paletted raster's values, (3, values) uint8, or None."""
    if raster.count != 1 or raster.colorinterp[0].name != 'palette':
        return None
    colours = np.zeros((3, np.iinfo(raster.dtypes[0]).max + 1), np.uint8)
    for value, colour in raster.colormap(1).items():
        colours[:, value] = colour[:3]
    return colours


def declared_gaps(raster: Any, bands: Sequence[int], stored: np.ndarray) -> np.ndarray:
    """Return where single bands have the no-data value that their file declares.

    Args:
        raster: ``rasterio.DatasetReader``.
        bands: Numbers of the bands.
        stored: Their pixels as read by :func:`read_bands`, (B, H, W).

    Returns:
        Shape (B, H, W), bool. A raster with a palette has no such gaps.
    """
    gaps = np.zeros(stored.shape, bool)
    for gap, band, pixels in zip(gaps, bands, stored, strict=True):
        value = None if _palette(raster) is not None else raster.nodatavals[band - 1]
        if value is not None:
            gap[:] = pixels == in_type(value, pixels.dtype)
    return gaps


def has_data(
    raster: Any, pixels: np.ndarray, to_rgb: RasterToRGB, window: Any = None
) -> np.ndarray:
    """Return where a raster has data, (H, W), by GDAL's mask and :meth:`RasterToRGB.has_data`.

    A band that is read as data is not used as mask, even if the file marks it as alpha, as GDAL
    does with the fourth of four 8-bit bands; its declared no-data value counts as that of others.
    """
    found = to_rgb.has_data(pixels)
    marks = [band.name for band in raster.colorinterp]
    read = to_rgb.choose(count_bands(raster), raster.name)
    if 'alpha' not in marks or marks.index('alpha') + 1 not in read:
        return found & (raster.dataset_mask(window=window, out_shape=pixels.shape[1:]) > 0)
    if any(flag.name == 'alpha' for band in raster.mask_flag_enums for flag in band):
        return found
    return found & (raster.read_masks(read, window=window, out_shape=pixels.shape) > 0).any(0)
