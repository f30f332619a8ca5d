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

LARGE = 100_000_000  # pictures with more pixels are read by rasterio
_CACHE = 64 * 2**20  # bytes; GDAL's default is a share of the machine's memory


class Source(Protocol):
    """Pixels of an image that can be read by rectangles."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height in pixels."""
        ...

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a rectangle within the image.

        Returns:
            RGB (h, w, 3) uint8, or bands (h, w, N) float32; and where there is data, (h, w) bool.
        """
        ...


@dataclass(frozen=True)
class PixelSource:
    """An image in memory.

    Attributes:
        pixels: RGB, (H, W, 3) uint8, or bands, (H, W, N) float32.
        valid: Where there is data, (H, W) bool; None for everywhere.
        to_rgb: Conversion that made the pixels.
    """

    pixels: np.ndarray
    valid: np.ndarray | None = None
    to_rgb: RasterToRGB = field(default_factory=RasterToRGB)

    def __post_init__(self) -> None:
        self.to_rgb.check_pixels(self.pixels)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.pixels.shape[0]

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a rectangle, see :meth:`Source.read`."""
        pixels = self.pixels[top:bottom, left:right]
        if self.valid is None:
            return pixels, np.ones(pixels.shape[:2], bool)
        return pixels, self.valid[top:bottom, left:right]

    def shrunk(self, size: tuple[int, int]) -> np.ndarray:
        """Return an RGB picture of another size (h, w)."""
        picture = self.to_rgb.picture(self.pixels)
        return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class RasterSource:
    """A raster opened by rasterio, which is not kept in memory.

    Attributes:
        dataset: ``rasterio.DatasetReader``.
        to_rgb: Conversion of its bands to RGB.
        picture: Decoded pixels of a picture for which the dataset only gives the georeference,
            since JPEG decoders differ.
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
        """Width in pixels."""
        return self.dataset.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.dataset.height

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a rectangle, see :meth:`Source.read`."""
        if self.picture is not None:
            return self.picture.read(top, bottom, left, right)
        from rasterio.windows import Window

        window = Window(left, top, right - left, bottom - top)
        return read_window(self.dataset, self.bands, self.to_rgb, window)

    def shrunk(self, size: tuple[int, int]) -> np.ndarray:
        """Return an RGB picture of another size (h, w)."""
        if self.picture is not None:
            return self.picture.shrunk(size)
        # Nearest neighbour, since the mean of data and no data must not be stretched.
        return self.to_rgb.picture(self.to_rgb(read_bands(self.dataset, self.bands, size)))

    @property
    def told(self) -> str:
        """Description of the bands that are read, e.g. ``'bands 1, 2, 3 of 4; alpha ignored'``."""
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
        to_rgb: Conversion of bands to RGB.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: rasterio is needed and not installed.
        ValueError: The file cannot be read; the message names it.
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
    """Return whether an image gets a GeoTIFF map: georeferenced, very large or read by GDAL."""
    info = raster_info(path)
    return info.by_gdal or info.located or info.width * info.height > LARGE
