# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters of any depth and number of bands as the 8-bit RGB pixels that networks are trained on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..utils.commands import command

TIFF_SUFFIXES = ('.tif', '.tiff')

_ORIENTATION_TAG, _SAMPLES_TAG, _NODATA_TAG = 0x0112, 277, 42113
_GEO_TAGS = (33550, 33922, 34264, 34735, 42112, _NODATA_TAG)
_PHOTOGRAPHS = ('JPEG', 'MPO')  # OpenCV turns these upright
_TIFF_MODES = ('1', 'L', 'P', 'RGB', 'CMYK', 'YCbCr')
_PLAIN_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr')
_STRIP = 1024  # rows read at a time: bounds the memory on rasters of many bands and bits
_SAMPLED_SIDE = 512  # pixels of an image's longer side that a stretch is estimated from


class RasterToRGB:
    """Turns the chosen bands of a raster into 8-bit RGB, the same way in training and prediction.

    Args:
        bands: Numbers of the red, green and blue band, from 1 as GDAL counts; one number makes a
            grey picture. None takes 1, 2, 3, or 1 alone of a raster of one or two bands.
        low: Value of each chosen band that becomes 0.
        high: Value of each chosen band that becomes 255; what lies outside is clipped. None for
            both leaves 8-bit pixels as they are.

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
    ) -> None:
        if bands is not None and (len(bands) not in (1, 3) or min(bands) < 1):
            raise ValueError(
                f'Bands are one or three numbers from 1, not {list(bands)}: give those of red, '
                'green and blue.'
            )
        if (low is None) != (high is None):
            raise ValueError(
                f'A stretch needs both ends, not low={low} and high={high}: give both or neither.'
            )
        if low is not None and high is not None:
            expected = (1, 3) if bands is None else (len(bands),)
            if len(low) != len(high) or len(low) not in expected:
                raise ValueError(
                    f'The stretch low={list(low)}, high={list(high)} does not fit the bands '
                    f'{"1, 2, 3" if bands is None else list(bands)}: give one number per band.'
                )
            if any(bottom >= top for bottom, top in zip(low, high, strict=True)):
                raise ValueError(
                    f'The stretch low={list(low)}, high={list(high)} is empty in a band: let each '
                    'low be below its high.'
                )
        self.bands = None if bands is None else [int(band) for band in bands]
        self.low = None if low is None else [float(value) for value in low]
        self.high = None if high is None else [float(value) for value in high]

    def __repr__(self) -> str:
        return f'RasterToRGB(bands={self.bands}, low={self.low}, high={self.high})'

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
        bands = self.bands or ([1, 2, 3] if count >= 3 else [1])
        if max(bands) > count:
            raise ValueError(
                f'{name} has {count} bands but bands {bands} are asked for: choose among 1 to '
                f'{count} (--bands, or bands of raster in the config).'
            )
        return bands

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
        if self.low is None or self.high is None:
            if pixels.dtype != np.uint8:
                raise ValueError(
                    f'Bands of type {pixels.dtype} need low and high to become 8-bit RGB: give the '
                    'values that become 0 and 255, e.g. raster=dict(low=[..], high=[..]) in the '
                    f'config, as {command("init")} estimates them.'
                )
            stretched = pixels
        else:
            low = np.array(self.low, np.float32)[:, None, None]
            scale = np.float32(255) / (np.array(self.high, np.float32)[:, None, None] - low)
            levels = (pixels.astype(np.float32) - low) * scale
            np.nan_to_num(levels, copy=False, nan=0.0)
            stretched = np.rint(np.clip(levels, 0, 255, out=levels)).astype(np.uint8)
        if len(stretched) == 1:
            stretched = np.broadcast_to(stretched, (3, *stretched.shape[1:]))
        return np.ascontiguousarray(stretched.transpose(1, 2, 0))


@dataclass(frozen=True)
class RasterInfo:
    """What the header of an image file says.

    Attributes:
        width: In pixels, as the loader sees it: photographs are turned upright.
        height: Likewise.
        bands: Number of bands, alpha not counted where Pillow knows that it is alpha.
        dtype: Name of the numbers' type, e.g. ``'uint16'``.
        transparent: Whether pixels may be marked as no data, by a value or by alpha.
        georeferenced: Whether it is a TIFF with GDAL's or GeoTIFF's tags.
        by_pillow: Whether Pillow reads it as 8-bit pixels; otherwise OpenCV or rasterio does.
    """

    width: int
    height: int
    bands: int
    dtype: str
    transparent: bool
    georeferenced: bool
    by_pillow: bool


class RGBPixels(NamedTuple):
    """A raster as it is trained on.

    Attributes:
        pixels: Shape (H, W, 3), uint8, RGB.
        valid: Shape (H, W), bool, False where the raster has no data; None where it has everywhere.
    """

    pixels: np.ndarray
    valid: np.ndarray | None


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


def raster_info(path: str | Path) -> RasterInfo:
    """Read the header of an image file.

    Raises:
        FileNotFoundError: It does not exist.
        ImportError: rasterio is needed and not installed.
        ValueError: It is no image; the message has the reason.
    """
    path = Path(path)
    tiff = path.suffix.lower() in TIFF_SUFFIXES
    try:
        info = _picture_info(path, tiff)
    except ValueError as error:  # Pillow knows few of the ways to write a TIFF
        tiff = tiff or isinstance(error.__cause__, Image.DecompressionBombError)  # as large
        if not tiff:
            raise
        info = None
    if info is not None:
        return info
    if not tiff:
        pixels, valid = _read_deep(path)
        count, height, width = pixels.shape
        return RasterInfo(width, height, count, str(pixels.dtype), valid is not None, False, False)
    with open_raster(path) as raster:
        flags = {flag.name for band in raster.mask_flag_enums for flag in band}
        return RasterInfo(
            raster.width,
            raster.height,
            raster.count,
            str(raster.dtypes[0]),
            flags != {'all_valid'},
            True,
            False,
        )


def _picture_info(path: Path, tiff: bool) -> RasterInfo | None:
    """What Pillow says of a file; None if it does not give all of its pixels in 8 bits."""
    with _open_picture(path) as image:
        tags = getattr(image, 'tag_v2', None) or {}
        modes = _TIFF_MODES if tiff else _PLAIN_MODES
        if image.mode not in modes or _is_deep_png(path):
            return None
        if tiff and tags.get(_SAMPLES_TAG, 1) != len(image.getbands()):
            return None
        if tiff and image.width * image.height > (Image.MAX_IMAGE_PIXELS or float('inf')):
            return None
        width, height = image.size
        if image.format in _PHOTOGRAPHS and image.getexif().get(_ORIENTATION_TAG) in (5, 6, 7, 8):
            width, height = height, width
        return RasterInfo(
            width,
            height,
            1 if image.mode in ('1', 'L', 'LA') else 3,
            'uint8',
            image.mode in ('LA', 'RGBA') or _NODATA_TAG in tags or 'transparency' in image.info,
            any(tag in tags for tag in _GEO_TAGS),
            True,
        )


def read_rgb(path: str | Path, to_rgb: RasterToRGB | None = None) -> RGBPixels:
    """Read an image file of any kind as RGB.

    Args:
        path: PNG, JPEG, TIFF or whatever else Pillow reads.
        to_rgb: Chooses and stretches the bands. Defaults to 8-bit pixels as they are.

    Raises:
        FileNotFoundError: It does not exist.
        ImportError: rasterio is needed and not installed.
        ValueError: It cannot be read, has too few bands, or needs a stretch that ``to_rgb`` lacks.
    """
    path, to_rgb = Path(path), to_rgb or RasterToRGB()
    info = raster_info(path)
    if not info.by_pillow and path.suffix.lower() in TIFF_SUFFIXES:
        return _read_raster(path, to_rgb)
    if info.by_pillow:
        pixels, valid = _read_picture(path)
    else:
        pixels, valid = _read_deep(path)
    chosen = [band - 1 for band in to_rgb.choose(len(pixels), str(path))]
    try:
        return RGBPixels(to_rgb(pixels[chosen]), valid)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def estimate_stretch(
    paths: Sequence[str | Path],
    bands: Sequence[int] | None = None,
    percentiles: tuple[float, float] = (2, 98),
) -> RasterToRGB:
    """Find a stretch for rasters that are not 8-bit: the same for all of them.

    Args:
        paths: A sample of the images; those that cannot be read are passed over.
        bands: See :class:`RasterToRGB`.
        percentiles: Shares of a band's pixels, in percent, that become 0 and that stay below 255;
            pixels without data are left out.

    Raises:
        ImportError: rasterio is needed and not installed.
        ValueError: No image has data, or a band is missing.
    """
    chooser = RasterToRGB(bands)
    values: list[list[np.ndarray]] = []
    for path in map(Path, paths):
        sample = _sample(path, chooser)
        if sample is not None:
            values.append(sample)
    counts = {len(sample) for sample in values}
    if len(counts) != 1 or not all(sum(map(len, band)) for band in zip(*values, strict=True)):
        raise ValueError(
            f'A stretch cannot be estimated from {len(values)} images with '
            f'{sorted(counts) or "no"} bands and their data: choose other --bands, or check the '
            'nodata value of the files.'
        )
    low, high = [], []
    for band in zip(*values, strict=True):
        bottom, top = np.percentile(np.concatenate(band), percentiles)
        low.append(_rounded(bottom))
        high.append(_rounded(top) if top > bottom else _rounded(bottom) + 1)
    return RasterToRGB(bands, low, high)


def _rounded(value: float) -> float:
    """A number with four digits, which reads well in a config."""
    return float(f'{value:.4g}')


def _short(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


@contextmanager
def _open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a file by Pillow, which says what is wrong in a dozen ways."""
    if not path.is_file():
        raise FileNotFoundError(f'The image {path} does not exist: correct the path.')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        try:
            image = Image.open(path)
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(
                f'{path} cannot be read ({_short(error)}): replace the file.'
            ) from error
        with image:
            yield image


def _is_deep_png(path: Path) -> bool:
    """Whether a PNG has 16 bits, of which Pillow drops half without a word."""
    with path.open('rb') as file:
        header = file.read(25)
    return header.startswith(b'\x89PNG') and header[24:25] == b'\x10'


def _read_deep(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Bands (1 or 3, H, W) of a file of more than 8 bits that is no TIFF, and where it has data."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f'{path} cannot be read (OpenCV finds no image): replace the file.')
    if pixels.ndim == 2:
        return pixels[None], None
    valid = pixels[..., 3] > 0 if pixels.shape[2] == 4 else None
    return pixels[..., 2::-1].transpose(2, 0, 1), valid


def _read_picture(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """8-bit bands (1 or 3, H, W) of a file that Pillow reads, and where it has data."""
    with _open_picture(path) as image:
        nodata = (getattr(image, 'tag_v2', None) or {}).get(_NODATA_TAG)
        try:
            upright = ImageOps.exif_transpose(image) if image.format in _PHOTOGRAPHS else image
            transparent = image.mode in ('LA', 'RGBA') or 'transparency' in image.info
            valid = np.asarray(upright.convert('RGBA'))[..., 3] > 0 if transparent else None
            grey = image.mode in ('1', 'L', 'LA')
            pixels = np.asarray(upright.convert('L' if grey else 'RGB'))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f'{path} cannot be read ({_short(error)}): replace the file.'
            ) from error
    bands = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if nodata is not None and valid is None:
        valid = (bands != _number(nodata)).any(0)
    return bands, None if valid is None or valid.all() else valid


def _number(text: str) -> float:
    try:
        return float(text.strip('\x00 '))
    except ValueError:
        return float('nan')


def _read_raster(path: Path, to_rgb: RasterToRGB) -> RGBPixels:
    with open_raster(path) as raster:
        from rasterio.windows import Window

        bands = to_rgb.choose(count_bands(raster), str(path))
        rgb = np.empty((raster.height, raster.width, 3), np.uint8)
        valid = np.empty((raster.height, raster.width), bool)
        for top in range(0, raster.height, _STRIP):
            rows = min(_STRIP, raster.height - top)
            window = Window(0, top, raster.width, rows)
            strip = read_bands(raster, bands, window=window)
            try:
                rgb[top : top + rows] = to_rgb(strip)
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error
            valid[top : top + rows] = has_data(raster, strip, window)
    return RGBPixels(rgb, None if valid.all() else valid)


def count_bands(raster: Any) -> int:
    """Number of bands of a raster that rasterio has open; a palette makes one band three."""
    return raster.count if _palette(raster) is None else 3


def read_bands(
    raster: Any, bands: Sequence[int], size: tuple[int, int] | None = None, window: Any = None
) -> np.ndarray:
    """Read bands of a raster that rasterio has open, of a paletted one those of the colours.

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
    return pixels if palette is None else palette[np.array(bands) - 1][:, pixels[0]]


def _palette(raster: Any) -> np.ndarray | None:
    """Colours of the values of a raster's only band, (3, values) uint8; None if it has none."""
    if raster.count != 1 or raster.colorinterp[0].name != 'palette':
        return None
    colours = np.zeros((3, np.iinfo(raster.dtypes[0]).max + 1), np.uint8)
    for value, colour in raster.colormap(1).items():
        colours[:, value] = colour[:3]
    return colours


def has_data(raster: Any, pixels: np.ndarray, window: Any = None) -> np.ndarray:
    """Where a raster has data, (H, W): GDAL's mask, and where not all bands are NaN."""
    marked = raster.dataset_mask(window=window, out_shape=pixels.shape[1:]) > 0
    if pixels.dtype.kind == 'f':
        marked &= ~np.isnan(pixels).all(0)
    return marked


def _sample(path: Path, chooser: RasterToRGB) -> list[np.ndarray] | None:
    """Values of each chosen band with data, thinned; None for a file that cannot be read."""
    try:
        info = raster_info(path)
    except ValueError:
        return None
    if not info.by_pillow and path.suffix.lower() in TIFF_SUFFIXES:
        bands = chooser.choose(info.bands, str(path))
        thin = max(1, max(info.width, info.height) // _SAMPLED_SIDE)
        shape = (max(1, info.height // thin), max(1, info.width // thin))
        try:
            with open_raster(path) as raster:
                pixels = raster.read(bands, out_shape=(len(bands), *shape))
                marked = has_data(raster, pixels)
        except ValueError:
            return None
    else:
        try:
            whole, valid = _read_picture(path) if info.by_pillow else _read_deep(path)
        except ValueError:
            return None
        thin = max(1, max(whole.shape[1:]) // _SAMPLED_SIDE)
        chosen = [band - 1 for band in chooser.choose(len(whole), str(path))]
        pixels = whole[chosen, ::thin, ::thin]
        marked = np.ones(pixels.shape[1:], bool) if valid is None else valid[::thin, ::thin]
    return [band[marked & np.isfinite(band)] for band in pixels]
