# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Images that are read a few rows at a time, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from .gdal import count_bands, open_raster, read_bands, read_window
from .levels import RasterToRGB
from .reader import BYTES, raster_info, read_rgb

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
            RGB (h, w, 3) uint8, or bands (h, w, N) float32; where there is data, (h, w) bool.
        """
        ...


@dataclass(frozen=True)
class PixelSource:
    """An image in memory.

    Attributes:
        pixels: RGB, (H, W, 3) uint8; of bands (H, W, N) float32.
        valid: Where there is data, (H, W) bool; None: everywhere.
        to_rgb: What has made the pixels.
    """

    pixels: np.ndarray
    valid: np.ndarray | None = None
    to_rgb: RasterToRGB = field(default_factory=RasterToRGB)

    def __post_init__(self) -> None:
        self.to_rgb.check_pixels(self.pixels)

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

    def shrunk(self, size: tuple[int, int]) -> np.ndarray:
        """RGB of another size (h, w), for looking at."""
        picture = self.to_rgb.picture(self.pixels)
        return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class RasterSource:
    """A raster that rasterio has open; nothing of it is kept in memory.

    Attributes:
        dataset: ``rasterio.DatasetReader``.
        to_rgb: How its bands become RGB.
        picture: Pixels of a picture, of which the dataset tells the place only: decoders of JPEG
            differ.
    """

    dataset: Any
    to_rgb: RasterToRGB
    picture: PixelSource | None = None
    bands: list[int] = field(init=False)

    def __post_init__(self) -> None:
        bands = self.to_rgb.choose(count_bands(self.dataset), self.dataset.name)
        object.__setattr__(self, 'bands', bands)
        paletted = count_bands(self.dataset) != self.dataset.count
        kinds = {'uint8'} if paletted else {self.dataset.dtypes[band - 1] for band in bands}
        if self.picture is None and self.to_rgb.low is None and not kinds <= set(BYTES):
            raise ValueError(
                f'{self.dataset.name} has bands of type {", ".join(sorted(kinds))}, and the config '
                'has no stretch to 8 bits: give the values that become 0 and 255 by --low and '
                '--high, or add raster=dict(bands=[..], low=[..], high=[..]).'
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
        if self.picture is not None:
            return self.picture.read(top, bottom, left, right)
        from rasterio.windows import Window

        window = Window(left, top, right - left, bottom - top)
        return read_window(self.dataset, self.bands, self.to_rgb, window)

    def shrunk(self, size: tuple[int, int]) -> np.ndarray:
        """RGB of another size (h, w), for looking at."""
        if self.picture is not None:
            return self.picture.shrunk(size)
        # The nearest pixels: a stretch must not meet the mean of data and no data.
        return self.to_rgb.picture(self.to_rgb(read_bands(self.dataset, self.bands, size)))

    @property
    def told(self) -> str:
        """Which bands are taken, e.g. ``'bands 1, 2, 3 of 4; alpha ignored'``."""
        count = count_bands(self.dataset)
        marks = [band.name for band in self.dataset.colorinterp]
        taken = f'band{"s" if len(self.bands) > 1 else ""} {", ".join(map(str, self.bands))}'
        ignored = 'alpha' in marks and marks.index('alpha') + 1 not in self.bands
        return f'{taken} of {count}' + ('; alpha ignored' if ignored else '')


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
    if not is_raster(path):
        yield PixelSource(*read_rgb(path, to_rgb), to_rgb)
        return
    with open_raster(path) as dataset:
        from rasterio import Env

        picture = None
        if not raster_info(path).by_gdal and dataset.width * dataset.height <= LARGE:
            picture = PixelSource(*read_rgb(path, to_rgb), to_rgb)
        with Env(GDAL_CACHEMAX=_CACHE):
            yield RasterSource(dataset, to_rgb, picture)


def is_raster(path: Path) -> bool:
    """Whether the map of an image is written as GeoTIFF: it lies somewhere, or GDAL reads it."""
    info = raster_info(path)
    return info.by_gdal or info.located or info.width * info.height > LARGE
