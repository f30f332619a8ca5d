# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Estimation of stretch, mean and standard deviation from a sample of rasters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from .gdal import count_bands, declared_gaps, has_data, open_raster, read_bands
from .levels import RasterToRGB, in_type
from .reader import raster_info, read_picture, read_rgb

PERCENTILES = (2.0, 98.0)

_SAMPLED_SIDE = 512  # larger images are thinned to a longer side of 512 to 1023 px
_FILL_SHARE = 1e-3  # share of the pixels from which an isolated value is no accident
_FILL_GAP = 1.0  # gap of an isolated value to the others, relative to their spread
_BORDER_SHARE, _BORDER_GAP = 1e-2, 0.25  # the same, if all bands have that value at once
_EDGE_SHARE = 0.02  # share of pixels from which 0 or 255 at the edge of 8-bit images is told
_STEPS = 8  # smallest such gap, in usual steps between values


class UndeclaredFill(ValueError):
    """A value far from all others that may mean no data; the message asks the user."""


def estimate_stretch(
    paths: Sequence[str | Path],
    bands: Sequence[int] | None = None,
    percentiles: tuple[float, float] = PERCENTILES,
    nodata: float | None = None,
    ask: bool = True,
    kind: Callable[..., RasterToRGB] = RasterToRGB,
) -> RasterToRGB:
    """Estimate a common stretch to 8 bits for rasters of deeper pixels.

    Args:
        paths: A sample of the images; damaged or missing files are skipped.
        bands: See :class:`RasterToRGB`.
        percentiles: Percentiles of a band's pixels with data that are mapped to 0 and 255.
        nodata: See :class:`RasterToRGB`.
        ask: Whether a value far from all others is an error, unless ``nodata`` is given.
        kind: Builds the result from ``bands``, ``low``, ``high`` and ``nodata``.

    Raises:
        ImportError: rasterio is needed and not installed.
        UndeclaredFill: A frequent value is far from all others.
        ValueError: No image has data, a band is missing, or the percentiles are not a range.
    """
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(
            f'Percentiles {percentiles[0]:g} and {percentiles[1]:g} are no range: give two numbers '
            'from 0 to 100, the smaller first.'
        )
    chooser = kind(bands, nodata=nodata)
    samples = [s for s in (_sample(Path(path), chooser) for path in paths) if s is not None]
    counts = {len(sample) for sample in samples}
    values = np.concatenate(samples, 1) if len(counts) == 1 else np.empty((1, 0))
    columns = [band[np.isfinite(band)] for band in values]
    if not all(map(len, columns)):
        raise ValueError(
            f'A stretch cannot be estimated from {len(samples)} images with '
            f'{sorted(counts) or "no"} bands and their data: choose other --bands, or check the '
            'nodata value of the files.'
        )
    fill = _fill(values) if ask and nodata is None else None
    if fill is not None:
        raise UndeclaredFill(
            f'{np.mean(values == fill):.1%} of the pixels have the value {fill!r}, far from all '
            'others, which the files do not declare as no data: say --nodata='
            f'{fill!r} if there is none at such pixels, or --nodata=none if it is measured.'
        )
    ends = [_ends(band, percentiles) for band in columns]
    return kind(bands, [low for low, _ in ends], [high for _, high in ends], nodata)


def measure_statistics(
    paths: Sequence[str | Path], to_rgb: RasterToRGB
) -> tuple[list[float], list[float]]:
    """Measure mean and standard deviation of each channel over all pixels with data.

    Args:
        paths: The images, thinned to a longer side below 1024 px.
        to_rgb: Conversion of their bands.

    Returns:
        Means and standard deviations on the 8-bit scale, rounded to hundredths; the latter are at
        least 1.

    Raises:
        ValueError: No image has data, or one cannot be read.
    """
    count = 0
    total = squares = np.zeros(1)
    for path in paths:
        pixels, valid = read_rgb(path, to_rgb)
        thin = max(1, max(pixels.shape[:2]) // _SAMPLED_SIDE)
        found = pixels[::thin, ::thin].astype(np.float64)
        seen = found.reshape(-1, found.shape[-1])
        if valid is not None:
            seen = found[valid[::thin, ::thin]]
        count += len(seen)
        total, squares = total + seen.sum(0), squares + np.square(seen).sum(0)
    if not count:
        raise ValueError(
            f'The statistics of {len(paths)} images cannot be measured, since no pixel has data: '
            'check the nodata value of the files.'
        )
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 1.0))
    return mean.round(2).tolist(), deviation.round(2).tolist()


def border_fill(pixels: np.ndarray) -> tuple[int, float] | None:
    """Find areas of value 0, or of 255, in all bands that are connected to the edge of an image.

    Args:
        pixels: Shape (B, H, W), uint8.

    Returns:
        The value and its share of the pixels, in [0, 1]; None if both cover less than 2 %.
    """
    for value in (0, 255):
        filled = (pixels == value).all(0)
        if filled.mean() < _EDGE_SHARE:
            continue
        areas = cv2.connectedComponents(filled.astype(np.uint8), connectivity=4)[1]
        edges = np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]])
        share = float(np.isin(areas, np.unique(edges[edges > 0])).mean())
        if share >= _EDGE_SHARE:
            return value, share
    return None


def _ends(band: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return low and high rounded to few digits, which read well in a config."""
    low, high = map(float, np.percentile(band, percentiles))
    if low == high:  # nearly all pixels are equal
        low, high = float(band.min()), float(band.max())
    if low == high:
        return low, low + 1
    digits = 2 - int(np.floor(np.log10(high - low)))
    return round(low, digits), round(high, digits)


def _fill(values: np.ndarray) -> float | None:
    """Return the lowest or highest value of a band in (B, N) if it is unlikely to be measured."""
    for band in values:
        finite = band[np.isfinite(band)]
        levels, counts = np.unique(finite, return_counts=True)
        if len(levels) < 3:
            continue
        for candidate, others, count in (
            (levels[0], levels[1:], counts[0]),
            (levels[-1], levels[:-1], counts[-1]),
        ):
            everywhere = len(values) > 1 and (values == candidate).all(0).mean() >= _BORDER_SHARE
            if not everywhere and count < _FILL_SHARE * len(finite):
                continue
            spread = np.subtract(*np.percentile(finite[finite != candidate], (98, 2)))
            gap = np.abs(others - candidate).min()
            wide = gap >= spread * (_BORDER_GAP if everywhere else _FILL_GAP)
            if wide and gap > _STEPS * np.median(np.diff(others)):
                return float(candidate)
    return None


def read_small(path: Path) -> np.ndarray:
    """Read all bands of a raster, thinned to a longer side below 1024 px, (B, h, w).

    Raises:
        ImportError: rasterio is not installed.
        ValueError: The file cannot be read.
    """
    with open_raster(path) as raster:
        thin = max(1, max(raster.width, raster.height) // _SAMPLED_SIDE)
        size = (max(1, raster.height // thin), max(1, raster.width // thin))
        return read_bands(raster, range(1, count_bands(raster) + 1), size)


def _sample(path: Path, chooser: RasterToRGB) -> np.ndarray | None:
    """Return a sample of the chosen bands' values with data, (B, N), or None for a damaged file.

    Where only some of the bands have a no-data value, it becomes NaN.
    """
    try:
        info = raster_info(path)
        thin = max(1, max(info.width, info.height) // _SAMPLED_SIDE)
        if info.by_gdal:
            with open_raster(path) as raster:
                bands = chooser.choose(count_bands(raster), str(path))
                shape = (max(1, info.height // thin), max(1, info.width // thin))
                pixels = read_bands(raster, bands, shape)
                marked = has_data(raster, pixels, chooser)
                gaps = declared_gaps(raster, bands, pixels)
        else:
            whole, valid = read_picture(path)
            bands = chooser.choose(len(whole), str(path))
            pixels = whole[[band - 1 for band in bands], ::thin, ::thin]
            marked, gaps = chooser.has_data(pixels), np.zeros(pixels.shape, bool)
            if valid is not None:
                marked &= valid[::thin, ::thin]
    except FileNotFoundError:
        return None
    except ValueError as error:
        if 'cannot be read' in str(error):
            return None
        raise
    if chooser.nodata is not None:
        gaps |= pixels == in_type(chooser.nodata, pixels.dtype)
    return np.where(gaps, np.nan, pixels.astype(np.float64))[:, marked]
