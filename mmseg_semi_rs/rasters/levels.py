# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Conversion of raster bands to 8-bit RGB, or to any number of channels on the same scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..utils.commands import command


class RasterToRGB:
    """Conversion of chosen raster bands to 8-bit RGB, the same in training and prediction.

    Args:
        bands: Numbers of the red, green and blue band, from 1 as in GDAL; a single number gives a
            grey picture. None takes 1, 2, 3, or only 1 of a raster with one or two bands.
        low: Value of each chosen band that is mapped to 0.
        high: Value of each chosen band that is mapped to 255; values outside are clipped. None for
            both keeps 8-bit pixels as they are, and adds 128 to signed ones.
        nodata: Value of pixels without data that the files do not declare. A pixel has no data if
            all chosen bands have this value.

    Raises:
        ValueError: ``bands`` are not one or three numbers from 1, or ``low`` and ``high`` do not
            fit them.

    Examples:
        >>> to_rgb = RasterToRGB(bands=[4, 3, 2], low=[200, 200, 200], high=[3000, 2500, 2000])
        >>> to_rgb(np.full((3, 2, 2), 1600, np.uint16))[0, 0].tolist()
        [128, 155, 198]
    """

    def __init__(
        self,
        bands: Sequence[int] | None = None,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        nodata: float | None = None,
    ) -> None:
        if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
            raise ValueError(
                f'Bands are one or three numbers from 1, not {list(bands)}: give those of red, '
                'green and blue.'
            )
        self.bands = None if bands is None else [int(band) for band in bands]
        expected = (1, 3) if bands is None else (len(bands),)
        self._take_stretch(low, high, expected, [1, 2, 3] if bands is None else bands)
        self.nodata = None if nodata is None else float(nodata)

    def _take_stretch(
        self,
        low: Sequence[float] | None,
        high: Sequence[float] | None,
        expected: Sequence[int] | None,
        bands: Sequence[int] | None,
    ) -> None:
        """Check and store a stretch; ``expected`` lists allowed numbers of bands (None: any)."""
        if (low is None) != (high is None):
            raise ValueError(
                f'A stretch needs both ends, not low={low} and high={high}: give both or neither.'
            )
        if low is not None and high is not None:
            if len(low) != len(high) or len(low) not in (expected or (len(low),)):
                raise ValueError(
                    f'The stretch low={list(low)}, high={list(high)} does not fit the bands '
                    f'{", ".join(map(str, bands or ()))}: give one number per band.'
                )
            if any(bottom >= top for bottom, top in zip(low, high, strict=True)):
                raise ValueError(
                    f'The stretch low={list(low)}, high={list(high)} is empty in a band: let each '
                    'low be below its high.'
                )
        self.low = None if low is None else [float(value) for value in low]
        self.high = None if high is None else [float(value) for value in high]

    def __repr__(self) -> str:
        settings = ', '.join(f'{key}={value}' for key, value in vars(self).items())
        return f'{type(self).__name__}({settings})'

    def choose(self, count: int, name: str = 'The raster') -> list[int]:
        """Return the numbers of the bands to read.

        Args:
            count: Number of bands of the raster.
            name: Name of the raster in error messages.

        Returns:
            Band numbers, from 1.

        Raises:
            ValueError: The raster lacks a band.
        """
        bands = self.bands or self._all_of(count)
        if max(bands) > count:
            raise ValueError(
                f'{name} has {count} bands but bands {bands} are asked for: choose among 1 to '
                f'{count} (--bands, or bands of raster in the config).'
            )
        return bands

    def _all_of(self, count: int) -> list[int]:
        """Return the bands to read if none are specified."""
        return [1, 2, 3] if count >= 3 else [1]

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """Return converted pixels as a picture for people, 8-bit RGB of the same (H, W)."""
        return pixels

    def check_pixels(self, pixels: np.ndarray) -> None:
        """Check that an array has the format of converted pixels.

        Raises:
            ValueError: It is not (H, W, 3) uint8.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(
                f'An image is RGB of shape (H, W, 3) and type uint8, not {pixels.shape} '
                f'{pixels.dtype}: convert it, for instance by RasterToRGB.'
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Convert bands to RGB.

        Args:
            pixels: The chosen bands in order, shape (3, H, W) or (1, H, W), of any numeric type.

        Returns:
            RGB, shape (H, W, 3), uint8. NaN becomes 0.

        Raises:
            ValueError: The number of bands is not one or three or differs from the stretch, or the
                type needs a stretch and there is none.
        """
        wanted = (1, 3) if self.low is None else (len(self.low),)
        if pixels.ndim != 3 or len(pixels) not in wanted:
            raise ValueError(
                f'Bands of shape {pixels.shape} cannot become RGB: give '
                f'{" or ".join(map(str, wanted))} of them as (bands, height, width).'
            )
        levels = self._levels(pixels)
        stretched = levels
        if levels.dtype != np.uint8:
            stretched = np.rint(np.clip(levels, 0, 255, out=levels)).astype(np.uint8)
        if len(stretched) == 1:
            stretched = np.broadcast_to(stretched, (3, *stretched.shape[1:]))
        return np.ascontiguousarray(stretched.transpose(1, 2, 0))

    def _levels(self, pixels: np.ndarray) -> np.ndarray:
        """Return bands (B, H, W) on the 8-bit scale, as uint8, or stretched as float32."""
        if self.low is None or self.high is None:
            if pixels.dtype == np.int8:
                pixels = (pixels.astype(np.int16) + 128).astype(np.uint8)
            if pixels.dtype != np.uint8:
                raise ValueError(
                    f'Bands of type {pixels.dtype} need low and high to become 8-bit RGB: give the '
                    'values that become 0 and 255, e.g. raster=dict(low=[..], high=[..]) in the '
                    f'config, as {command("init")} estimates them, or --low and --high.'
                )
            return pixels
        short = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
        kind = np.float32 if short else np.float64  # keeps their digits
        low = np.array(self.low)[:, None, None]
        scale = (255 / (np.array(self.high)[:, None, None] - low)).astype(np.float32)
        levels = (pixels.astype(kind) - low.astype(kind)).astype(np.float32) * scale
        return np.nan_to_num(levels, copy=False, nan=0.0)

    def has_data(self, pixels: np.ndarray) -> np.ndarray:
        """Return where not all bands (B, H, W) are NaN or infinite, nor all ``nodata``."""
        found = np.ones(pixels.shape[1:], bool)
        if pixels.dtype.kind == 'f':
            found &= np.isfinite(pixels).any(0)
        if self.nodata is not None:
            found &= (pixels != in_type(self.nodata, pixels.dtype)).any(0)
        return found

    def with_data(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return converted pixels (H, W, C), unchanged also where ``valid`` (H, W) is False."""
        return pixels


class RasterToBands(RasterToRGB):
    """Conversion of any number of raster bands to the scale of 8-bit pixels, in float32.

    A band becomes ``(value - low) / (high - low) * 255``, neither rounded nor clipped, except far
    outside at -255 and 510. So everything that follows (statistics, photometric transforms,
    pictures, frozen RGB networks) works in grey levels for any sensor. Pixels without data are 0.

    Args:
        bands: Numbers of the bands in the order of the network's channels, from 1 as in GDAL. None
            takes all bands of a file.
        low: Value of each band that is mapped to 0.
        high: Value of each band that is mapped to 255. None for both keeps 8-bit values as they
            are, and adds 128 to signed ones.
        nodata: Value of pixels without data that the files do not declare. A band with this value,
            or with that of its file, becomes 0; a pixel has no data if all bands have it.
        rgb: Numbers of the red, green and blue band for pictures, which must be among ``bands``; a
            single number gives grey pictures. None takes the first three, or the first of two.
        count: Number of bands that files must have. None accepts any file that has ``bands``.

    Raises:
        ValueError: ``bands`` repeat or are not numbers from 1, ``rgb`` is not among them, or the
            stretch does not fit them.

    Examples:
        >>> to_bands = RasterToBands([1, 2, 3, 4], [0] * 4, [1000] * 4, rgb=[3, 2, 1])
        >>> pixels = to_bands(np.full((4, 2, 2), 1200, np.uint16))
        >>> pixels.shape, pixels[0, 0].tolist(), to_bands.picture(pixels)[0, 0].tolist()
        ((2, 2, 4), [306.0, 306.0, 306.0, 306.0], [255, 255, 255])
    """

    FURTHEST = (-255.0, 510.0)

    def __init__(
        self,
        bands: Sequence[int] | None = None,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        nodata: float | None = None,
        rgb: Sequence[int] | None = None,
        count: int | None = None,
    ) -> None:
        chosen = list(range(1, count + 1)) if bands is None and count else bands
        if chosen is not None and (not chosen or min(chosen) < 1 or len(set(chosen)) < len(chosen)):
            raise ValueError(
                f'Bands are different numbers from 1, not {list(chosen)}: give each band once, in '
                "the order of the network's channels."
            )
        self.bands = None if chosen is None else [int(band) for band in chosen]
        self._take_stretch(low, high, None if chosen is None else (len(chosen),), chosen)
        self.nodata = None if nodata is None else float(nodata)
        self.count = count
        self.rgb = None if rgb is None else [int(band) for band in rgb]
        known = self.bands or self.rgb or []
        if self.rgb is not None and (len(self.rgb) not in (1, 3) or not {*self.rgb} <= {*known}):
            raise ValueError(
                f'rgb={self.rgb} are not one or three of the bands {known}: give the numbers of '
                'those that make a picture.'
            )

    @property
    def rgb_channels(self) -> list[int]:
        """Channel indices, from 0, of red, green and blue for pictures."""
        if self.rgb is None:
            return [0, 1, 2] if self.bands is None or len(self.bands) >= 3 else [0] * 3
        bands = self.bands or list(range(1, max(self.rgb) + 1))
        return [bands.index(band) for band in self.rgb] * (3 // len(self.rgb))

    def choose(self, count: int, name: str = 'The raster') -> list[int]:
        """Return the numbers of the bands to read, see :meth:`RasterToRGB.choose`.

        Raises:
            ValueError: The file has another number of bands, or lacks one.
        """
        if self.count not in (None, count):
            raise ValueError(
                f'{name} has {count} bands where files of {self.count} are read: give the same '
                f'bands as in training, or choose {len(self.bands or ())} of them by --bands.'
            )
        return super().choose(count, name)

    def _all_of(self, count: int) -> list[int]:
        return list(range(1, count + 1))

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """Return levels (H, W, N) as a picture for people: 8-bit RGB of the bands ``rgb``."""
        return levels_to_rgb(pixels, self.rgb_channels)

    def check_pixels(self, pixels: np.ndarray) -> None:
        """Check that an array has the format of converted pixels.

        Raises:
            ValueError: It is not (H, W, N) float32.
        """
        wanted = 'N' if self.bands is None else len(self.bands)
        if pixels.ndim != 3 or pixels.dtype != np.float32 or wanted not in ('N', pixels.shape[2]):
            raise ValueError(
                f'An image is of shape (H, W, {wanted}) and type float32, not {pixels.shape} '
                f'{pixels.dtype}: convert it by RasterToBands.'
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Convert bands to the 8-bit scale.

        Args:
            pixels: The chosen bands in order, shape (N, H, W), of any numeric type.

        Returns:
            Shape (H, W, N), float32, mostly in [0, 255]. NaN becomes 0.

        Raises:
            ValueError: The number of bands differs from the settings, or the type needs a stretch
                and there is none.
        """
        wanted = self.low or self.bands or pixels
        if pixels.ndim != 3 or len(pixels) != len(wanted):
            raise ValueError(
                f'Bands of shape {pixels.shape} are not the {len(wanted)} that are read: give them '
                'as (bands, height, width).'
            )
        levels = self._levels(pixels).astype(np.float32, copy=False)
        if self.nodata is not None:
            levels = np.where(pixels == in_type(self.nodata, pixels.dtype), np.float32(0), levels)
        return np.ascontiguousarray(np.clip(levels, *self.FURTHEST).transpose(1, 2, 0))

    def with_data(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Set pixels (H, W, N) to 0 in place where ``valid`` (H, W) is False."""
        pixels[~valid] = 0
        return pixels


def levels_to_rgb(levels: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """Convert three channels of levels to 8-bit RGB.

    Args:
        levels: Shape (H, W, N), numbers on the 8-bit scale.
        channels: Indices of red, green and blue.

    Returns:
        Shape (H, W, 3), uint8, rounded and clipped.
    """
    return np.rint(np.clip(levels[..., list(channels)], 0, 255)).astype(np.uint8)


def raster_conversion(settings: Mapping[str, Any]) -> RasterToRGB:
    """Build a config's ``raster`` conversion: ``RasterToBands`` if it has ``rgb`` or ``count``.

    Raises:
        ValueError: See :class:`RasterToRGB` and :class:`RasterToBands`.
    """
    kind = RasterToBands if {'rgb', 'count'} & set(settings) else RasterToRGB
    return kind(**settings)


def in_type(value: float, kind: np.dtype) -> Any:
    """Convert a number to how pixels of a type hold it."""
    if kind.kind == 'f':
        return kind.type(value)
    return int(value) if value.is_integer() else value
