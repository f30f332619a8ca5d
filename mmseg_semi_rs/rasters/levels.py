# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What becomes of the bands of a raster: 8-bit RGB, or any number of channels on that scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..utils.commands import command


class RasterToRGB:
    """Turns the chosen bands of a raster into 8-bit RGB, the same way in training and prediction.

    Args:
        bands: Numbers of the red, green and blue band, from 1 as GDAL counts; one number makes a
            grey picture. None takes 1, 2, 3, or 1 alone of a raster of one or two bands.
        low: Value of each chosen band that becomes 0.
        high: Value of each chosen band that becomes 255; what lies outside is clipped. None for
            both leaves 8-bit pixels as they are; signed ones are raised by 128.
        nodata: Value of pixels without data that the files do not declare: where all chosen bands
            have it there is none.

    Raises:
        ValueError: Bands are not one or three numbers from 1, or ``low`` and ``high`` do not fit
            them.

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
        """Take the ends of a stretch, which must be so many numbers; None: any."""
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
        """Numbers of the bands to read.

        Args:
            count: Bands that the raster has.
            name: What to call it in a message.

        Returns:
            One or three numbers, from 1.

        Raises:
            ValueError: A band is not there.
        """
        bands = self.bands or self._all_of(count)
        if max(bands) > count:
            raise ValueError(
                f'{name} has {count} bands but bands {bands} are asked for: choose among 1 to '
                f'{count} (--bands, or bands of raster in the config).'
            )
        return bands

    def _all_of(self, count: int) -> list[int]:
        """Bands that are read where none are named."""
        return [1, 2, 3] if count >= 3 else [1]

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """What a person sees of pixels that this made: 8-bit RGB of the same (H, W)."""
        return pixels

    def check_pixels(self, pixels: np.ndarray) -> None:
        """Refuse an array that is not what this makes.

        Raises:
            ValueError: It is not (H, W, 3) of type uint8.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(
                f'An image is RGB of shape (H, W, 3) and type uint8, not {pixels.shape} '
                f'{pixels.dtype}: convert it, for instance by RasterToRGB.'
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Stretch bands.

        Args:
            pixels: Shape (B, H, W), any numbers: the chosen bands in order, 3 or 1.

        Returns:
            Shape (H, W, 3), uint8, RGB. NaN becomes 0.

        Raises:
            ValueError: There are other bands than one or three, or than the stretch is for; or the
                numbers need a stretch and there is none.
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
        """Bands (B, H, W) on the scale of 8 bits: as they are, or stretched, in float32."""
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
        kind = np.float32 if short else np.float64  # which has all of their digits
        low = np.array(self.low)[:, None, None]
        scale = (255 / (np.array(self.high)[:, None, None] - low)).astype(np.float32)
        levels = (pixels.astype(kind) - low.astype(kind)).astype(np.float32) * scale
        return np.nan_to_num(levels, copy=False, nan=0.0)

    def has_data(self, pixels: np.ndarray) -> np.ndarray:
        """Where chosen bands (B, H, W) are not all NaN or infinite, nor all ``nodata``, (H, W)."""
        found = np.ones(pixels.shape[1:], bool)
        if pixels.dtype.kind == 'f':
            found &= np.isfinite(pixels).any(0)
        if self.nodata is not None:
            found &= (pixels != _as(self.nodata, pixels.dtype)).any(0)
        return found

    def with_data(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Pixels (H, W, C) of which some have no data, (H, W) bool; these stay as they are."""
        return pixels


class RasterToBands(RasterToRGB):
    """Brings any number of bands of a raster to the scale of 8-bit pixels, in float32.

    A band becomes ``(value - low) / (high - low) * 255``, neither rounded nor clipped but far
    outside, below -255 and above 510. So all that follows (statistics, photometry, pictures, frozen
    RGB networks) has one unit, the grey level, whatever the sensor's. Pixels without data are 0.

    Args:
        bands: Numbers of the bands in the order of the network's channels, from 1 as GDAL counts.
            None takes all of a file.
        low: Value of each band that becomes 0.
        high: Value of each band that becomes 255. None for both leaves 8-bit values as they are;
            signed ones are raised by 128.
        nodata: Value of pixels without data that the files do not declare: 0 in each band that has
            it; where all have it there is none.
        rgb: Numbers of the red, green and blue band, of those of ``bands``: what pictures show;
            one number makes them grey. None takes the first three, or the first of two.
        count: Bands of a file; one that has others is refused. None takes any that has ``bands``.

    Raises:
        ValueError: Bands are repeated or no numbers from 1, ``rgb`` is not among them, or the
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
        """Positions among the channels, from 0, of red, green and blue of a picture."""
        if self.rgb is None:
            return [0, 1, 2] if self.bands is None or len(self.bands) >= 3 else [0] * 3
        bands = self.bands or list(range(1, max(self.rgb) + 1))
        return [bands.index(band) for band in self.rgb] * (3 // len(self.rgb))

    def choose(self, count: int, name: str = 'The raster') -> list[int]:
        """Numbers of the bands to read; see :meth:`RasterToRGB.choose`.

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
        """What a person sees of levels (H, W, N): 8-bit RGB of the bands ``rgb``."""
        return levels_to_rgb(pixels, self.rgb_channels)

    def check_pixels(self, pixels: np.ndarray) -> None:
        """Refuse an array that is not what this makes.

        Raises:
            ValueError: It is not (H, W, N) of type float32.
        """
        wanted = 'N' if self.bands is None else len(self.bands)
        if pixels.ndim != 3 or pixels.dtype != np.float32 or wanted not in ('N', pixels.shape[2]):
            raise ValueError(
                f'An image is of shape (H, W, {wanted}) and type float32, not {pixels.shape} '
                f'{pixels.dtype}: convert it by RasterToBands.'
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Bring bands to the scale of 8 bits.

        Args:
            pixels: Shape (N, H, W), any numbers: the chosen bands in order.

        Returns:
            Shape (H, W, N), float32, mostly in [0, 255]. NaN becomes 0.

        Raises:
            ValueError: There are other bands than the stretch is for, or the numbers need a stretch
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
            levels = np.where(pixels == _as(self.nodata, pixels.dtype), np.float32(0), levels)
        return np.ascontiguousarray(np.clip(levels, *self.FURTHEST).transpose(1, 2, 0))

    def with_data(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Set pixels (H, W, N) without data, (H, W) bool, to 0: they may hold any number."""
        pixels[~valid] = 0
        return pixels


def levels_to_rgb(levels: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """8-bit RGB of three channels of levels.

    Args:
        levels: Shape (H, W, N), any numbers on the scale of 8 bits.
        channels: Positions of red, green and blue.

    Returns:
        Shape (H, W, 3), uint8, rounded and clipped.
    """
    return np.rint(np.clip(levels[..., list(channels)], 0, 255)).astype(np.uint8)


def raster_conversion(settings: Mapping[str, Any]) -> RasterToRGB:
    """What the ``raster`` of a config says: :class:`RasterToBands` if it has ``rgb`` or ``count``.

    Raises:
        ValueError: See both classes.
    """
    kind = RasterToBands if {'rgb', 'count'} & set(settings) else RasterToRGB
    return kind(**settings)


def _as(value: float, kind: np.dtype) -> Any:
    """A number as pixels of a type would hold it."""
    if kind.kind == 'f':
        return kind.type(value)
    return int(value) if value.is_integer() else value
