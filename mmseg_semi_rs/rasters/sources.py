# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Images that are read a few rows at a time, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .reader import (
    TIFF_SUFFIXES,
    RasterToRGB,
    count_bands,
    has_data,
    open_raster,
    raster_info,
    read_bands,
    read_rgb,
)

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
RASTER_SUFFIXES = (*TIFF_SUFFIXES, '.vrt', '.jp2', '.img')
LARGE = 100_000_000  # pixels from which a picture is read by rasterio too
_CACHE = 64 * 2**20  # bytes; GDAL's default is a share of the machine's memory


class Source(Protocol):
    """Pixels of an image."""

    @property
    def width(self) -> int:
        """In pixels."""
        ...

    @property
    def height(self) -> int:
        """In pixels."""
        ...

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a rectangle; it lies within the image.

        Returns:
            tuple[np.ndarray, np.ndarray]: RGB (h, w, 3) uint8; where there is data, (h, w) bool.
        """
        ...


@dataclass(frozen=True)
class PixelSource:
    """An image in memory.

    Attributes:
        pixels (np.ndarray): RGB, (H, W, 3) uint8.
        valid (np.ndarray | None): Where there is data, (H, W) bool; None: everywhere.
    """

    pixels: np.ndarray
    valid: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(
                f'An image is RGB of shape (H, W, 3) and type uint8, not {self.pixels.shape} '
                f'{self.pixels.dtype}: convert it, for instance by RasterToRGB.'
            )

    @property
    def width(self) -> int:
        """In pixels."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.pixels.shape[0]

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Source`."""
        pixels = self.pixels[top:bottom, left:right]
        if self.valid is None:
            return pixels, np.ones(pixels.shape[:2], bool)
        return pixels, self.valid[top:bottom, left:right]


@dataclass(frozen=True)
class RasterSource:
    """A raster that rasterio has open; nothing of it is kept in memory.

    Attributes:
        dataset (Any): ``rasterio.DatasetReader``.
        to_rgb (RasterToRGB): How its bands become RGB.
    """

    dataset: Any
    to_rgb: RasterToRGB
    bands: list[int] = field(init=False)

    def __post_init__(self) -> None:
        bands = self.to_rgb.choose(count_bands(self.dataset), self.dataset.name)
        object.__setattr__(self, 'bands', bands)
        paletted = count_bands(self.dataset) != self.dataset.count
        kinds = {'uint8'} if paletted else {self.dataset.dtypes[band - 1] for band in bands}
        if self.to_rgb.low is None and kinds != {'uint8'}:
            raise ValueError(
                f'{self.dataset.name} has bands of type {", ".join(sorted(kinds))}, and the config '
                'has no stretch to 8 bits: add raster=dict(bands=[..], low=[..], high=[..]), with '
                'the values that become 0 and 255.'
            )

    @property
    def width(self) -> int:
        """In pixels."""
        return self.dataset.width

    @property
    def height(self) -> int:
        """In pixels."""
        return self.dataset.height

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Source`."""
        from rasterio.windows import Window

        window = Window(left, top, right - left, bottom - top)
        pixels = read_bands(self.dataset, self.bands, window=window)
        return self.to_rgb(pixels), has_data(self.dataset, pixels, window)


@contextmanager
def open_source(path: Path, to_rgb: RasterToRGB) -> Iterator[PixelSource | RasterSource]:
    """Open an image: rasters and very large pictures by rasterio, others into memory.

    Args:
        path: An image file.
        to_rgb: How bands become RGB.

    Raises:
        FileNotFoundError: It does not exist.
        ImportError: rasterio is needed and not installed.
        ValueError: It cannot be read; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f'The image {path} does not exist: correct the path.')
    if is_raster(path):
        with open_raster(path) as dataset:
            from rasterio import Env

            with Env(GDAL_CACHEMAX=_CACHE):
                yield RasterSource(dataset, to_rgb)
    else:
        yield PixelSource(*read_rgb(path, to_rgb))


def is_raster(path: Path) -> bool:
    """Whether an image is read by rasterio, and its map written as GeoTIFF."""
    if path.suffix.lower() in RASTER_SUFFIXES:
        return True
    info = raster_info(path)
    return info.width * info.height > LARGE
