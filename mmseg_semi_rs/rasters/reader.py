# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters of any depth and number of bands as the 8-bit RGB pixels that networks are trained on.

GDAL (rasterio) reads TIFF and other rasters; Pillow reads pictures of 8 bits, OpenCV those of 16,
and GDAL adds the place and the no data that stand in files beside a picture. All give pixels as
they are stored: an orientation in EXIF or in a TIFF is applied to nothing, neither to an image nor
to its mask nor to its map.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..utils.commands import command
from .place import Place, is_annotated, place_of

RASTER_SUFFIXES = ('.tif', '.tiff', '.vrt', '.jp2', '.img')

BYTES = ('uint8', 'int8')

_ORIENTATION_TAG = 0x0112
_PLAIN_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr')
_STRIP = 1024  # rows read at a time: bounds the memory on rasters of many bands and bits


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
        self.nodata = None if nodata is None else float(nodata)

    def __repr__(self) -> str:
        settings = ', '.join(f'{key}={value}' for key, value in vars(self).items())
        return f'RasterToRGB({settings})'

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
            if pixels.dtype == np.int8:
                pixels = (pixels.astype(np.int16) + 128).astype(np.uint8)
            if pixels.dtype != np.uint8:
                raise ValueError(
                    f'Bands of type {pixels.dtype} need low and high to become 8-bit RGB: give the '
                    'values that become 0 and 255, e.g. raster=dict(low=[..], high=[..]) in the '
                    f'config, as {command("init")} estimates them, or --low and --high.'
                )
            stretched = pixels
        else:
            short = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
            kind = np.float32 if short else np.float64  # which has all of their digits
            low = np.array(self.low)[:, None, None]
            scale = (255 / (np.array(self.high)[:, None, None] - low)).astype(np.float32)
            levels = (pixels.astype(kind) - low.astype(kind)).astype(np.float32) * scale
            np.nan_to_num(levels, copy=False, nan=0.0)
            stretched = np.rint(np.clip(levels, 0, 255, out=levels)).astype(np.uint8)
        if len(stretched) == 1:
            stretched = np.broadcast_to(stretched, (3, *stretched.shape[1:]))
        return np.ascontiguousarray(stretched.transpose(1, 2, 0))

    def has_data(self, pixels: np.ndarray) -> np.ndarray:
        """Where chosen bands (B, H, W) are neither all NaN nor all ``nodata``, (H, W) bool."""
        found = np.ones(pixels.shape[1:], bool)
        if pixels.dtype.kind == 'f':
            found &= ~np.isnan(pixels).all(0)
        if self.nodata is not None:
            found &= (pixels != _as(self.nodata, pixels.dtype)).any(0)
        return found


@dataclass(frozen=True)
class RasterInfo:
    """What the header of an image file says.

    Attributes:
        width: In pixels, as they are stored.
        height: Likewise.
        bands: Number of bands, alpha not counted where Pillow knows that it is alpha.
        dtype: Name of the numbers' type, e.g. ``'uint16'``.
        transparent: Whether pixels may be marked as no data, by a value, a mask or alpha.
        plain: Whether the loaders of mmseg see the very same pixels: a PNG or JPEG of 8 bits that
            no orientation turns.
        by_gdal: Whether GDAL reads it.
        orientation: That of EXIF, 1 to 8, which nothing applies.
        place: Where its pixels lie, if it says so by a transform or by ground control points.
        located: Whether it says so at all, rational polynomials (RPC) included.
    """

    width: int
    height: int
    bands: int
    dtype: str
    transparent: bool
    plain: bool
    by_gdal: bool
    orientation: int = 1
    place: Place | None = None
    located: bool = False

    @property
    def deep(self) -> bool:
        """Whether a pixel has more than 8 bits, so that a stretch is needed."""
        return self.dtype not in BYTES


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
        ValueError: It is no image, or holds complex numbers; the message has the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'The image {path} does not exist: correct the path.')
    if path.suffix.lower() in RASTER_SUFFIXES:
        return _raster_info(path)
    try:
        info = _picture_info(path)
    except ValueError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):  # as large
            return _raster_info(path)
        raise
    if info is None:
        pixels, valid = read_picture(path)
        count, height, width = pixels.shape
        info = RasterInfo(width, height, count, str(pixels.dtype), valid is not None, False, False)
    if not is_annotated(path):
        return info
    beside = _raster_info(path)
    return replace(
        info,
        transparent=info.transparent or beside.transparent,
        plain=info.plain and not beside.transparent,
        place=beside.place,
        located=beside.located,
    )


def _raster_info(path: Path) -> RasterInfo:
    with open_raster(path) as raster:
        flags = {flag.name for band in raster.mask_flag_enums for flag in band}
        kind = str(raster.dtypes[0])
        if kind.startswith('complex'):
            raise ValueError(
                f'{path} holds complex numbers ({kind}), as radar images before detection do: give '
                'their amplitude or intensity.'
            )
        return RasterInfo(
            raster.width,
            raster.height,
            raster.count,
            kind,
            flags != {'all_valid'} or kind.startswith('float'),
            False,
            True,
            place=place_of(raster),
            located=place_of(raster) is not None or bool(raster.rpcs),
        )


def _picture_info(path: Path) -> RasterInfo | None:
    """What Pillow says of a file; None if it does not give all of its pixels in 8 bits."""
    with _open_picture(path) as image:
        if image.mode not in _PLAIN_MODES or _is_deep_png(path):
            return None
        orientation = _orientation(image, path)
        return RasterInfo(
            image.width,
            image.height,
            1 if image.mode in ('1', 'L', 'LA') else 3,
            'uint8',
            image.mode in ('LA', 'RGBA') or 'transparency' in image.info,
            image.mode != 'CMYK' and orientation == 1,
            False,
            orientation,
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
    if info.by_gdal:
        return _read_raster(path, to_rgb)
    bands, valid = read_picture(path)
    chosen = bands[[band - 1 for band in to_rgb.choose(len(bands), str(path))]]
    found = to_rgb.has_data(chosen) & (True if valid is None else valid)
    try:
        return RGBPixels(to_rgb(chosen), None if found.all() else found)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def _short(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


@contextmanager
def _open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a file by Pillow, which says what is wrong in a dozen ways."""
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


def read_picture(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a file that GDAL is not needed for.

    Returns:
        Bands (1 or 3, H, W) of 8 or 16 bits; where it has data, (H, W) bool, None for everywhere.

    Raises:
        ValueError: It cannot be read.
    """
    bands, valid = _decoded(path)
    if is_annotated(path):
        with open_raster(path) as raster:
            beside = raster.dataset_mask() > 0
        valid = beside if valid is None else valid & beside
    return bands, valid


def read_valid(path: Path) -> np.ndarray | None:
    """Where an image file says that it has data, without decoding what cannot say so.

    Args:
        path: An image file of any kind; a raster that needs rasterio says nothing without it.

    Returns:
        Shape (H, W), bool; None for everywhere, as for a file that cannot be read.
    """
    try:
        if path.suffix.lower() in RASTER_SUFFIXES:
            with open_raster(path) as raster:
                flags = {flag.name for band in raster.mask_flag_enums for flag in band}
                return None if flags == {'all_valid'} else raster.dataset_mask() > 0
        if is_annotated(path) or _may_be_transparent(path):
            return read_picture(path)[1]
    except (ImportError, ValueError):
        pass
    return None


def _may_be_transparent(path: Path) -> bool:
    with _open_picture(path) as image:
        return image.mode in ('LA', 'RGBA', 'PA') or 'transparency' in image.info


def _orientation(image: Image.Image, path: Path) -> int:
    """Orientation in the EXIF of a picture, 1 to 8; 0 for one that is damaged."""
    contents = image.info.get('exif') or (_late_exif(path) if image.format == 'PNG' else None)
    if not contents:
        return 1
    exif = Image.Exif()
    try:
        exif.load(contents)
        return int(exif.get(_ORIENTATION_TAG, 1))
    except Exception:  # Pillow raises a dozen kinds for what is no EXIF
        return 0


def _late_exif(path: Path) -> bytes | None:
    """EXIF that follows the pixels of a PNG, which Pillow knows only once they are decoded."""
    with path.open('rb') as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length = int.from_bytes(header[:4], 'big')
            if header[4:] == b'eXIf':
                return file.read(length)
            file.seek(length + 4, 1)
    return None


def _decoded(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with _open_picture(path) as image:
        if image.mode in _PLAIN_MODES and not _is_deep_png(path):
            try:
                transparent = image.mode in ('LA', 'RGBA') or 'transparency' in image.info
                valid = np.asarray(image.convert('RGBA'))[..., 3] > 0 if transparent else None
                grey = image.mode in ('1', 'L', 'LA')
                pixels = np.asarray(image.convert('L' if grey else 'RGB'))
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(
                    f'{path} cannot be read ({_short(error)}): replace the file.'
                ) from error
            return pixels[None] if grey else pixels.transpose(2, 0, 1), valid
    found: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise ValueError(f'{path} cannot be read (OpenCV finds no image): replace the file.')
    if found.ndim == 2:
        return found[None], None
    valid = found[..., 3] > 0 if found.shape[2] == 4 else None
    return found[..., 2::-1].transpose(2, 0, 1), valid


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
            valid[top : top + rows] = has_data(raster, strip, to_rgb, window)
    return RGBPixels(rgb, None if valid.all() else valid)


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
    """Where a raster has data, (H, W): GDAL's mask, and :meth:`RasterToRGB.has_data`."""
    marked = raster.dataset_mask(window=window, out_shape=pixels.shape[1:]) > 0
    return marked & to_rgb.has_data(pixels)


def _as(value: float, kind: np.dtype) -> Any:
    """A number as pixels of a type would hold it."""
    if kind.kind == 'f':
        return kind.type(value)
    return int(value) if value.is_integer() else value
