# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters of any depth and number of bands as the 8-bit RGB pixels that networks are trained on.

GDAL (rasterio) reads TIFF and other rasters; Pillow reads pictures of 8 bits, OpenCV those of 16,
and GDAL adds the place and the no data that stand in files beside a picture. All give pixels as
they are stored: an orientation in EXIF or in a TIFF is applied to nothing, neither to an image nor
to its mask nor to its map.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..utils.commands import command
from ..utils.files import write_atomic
from .files import RASTER_SUFFIXES
from .place import Place, is_annotated, place_of

BYTES = ('uint8', 'int8')

_ORIENTATION_TAG = 0x0112
_LOADED_ALIKE = ('PNG', 'JPEG', 'MPO')
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
        bands = self.bands or ([1, 2, 3] if count >= 3 else [1])
        if max(bands) > count:
            raise ValueError(
                f'{name} has {count} bands but bands {bands} are asked for: choose among 1 to '
                f'{count} (--bands, or bands of raster in the config).'
            )
        return bands

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
        bands = self.bands or list(range(1, count + 1))
        if max(bands) > count:
            raise ValueError(
                f'{name} has {count} bands but bands {bands} are asked for: choose among 1 to '
                f'{count} (--bands, or bands of raster in the config).'
            )
        return bands

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
        pixels: Shape (H, W, 3), uint8, RGB; of :class:`RasterToBands` (H, W, N), float32.
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
            image.format in _LOADED_ALIKE and image.mode != 'CMYK' and orientation == 1,
            False,
            orientation,
        )


def read_rgb(path: str | Path, to_rgb: RasterToRGB | None = None) -> RGBPixels:
    """Read an image file of any kind as RGB, or as bands.

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
        pixels = to_rgb.with_data(to_rgb(chosen), found)
        return RGBPixels(pixels, None if found.all() else found)
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
        strips = []
        for top in range(0, raster.height, _STRIP):
            window = Window(0, top, raster.width, min(_STRIP, raster.height - top))
            try:
                strips.append(read_window(raster, bands, to_rgb, window))
            except ValueError as error:
                raise ValueError(f'{path}: {error}') from error
    pixels, valid = (np.concatenate(parts) for parts in zip(*strips, strict=True))
    return RGBPixels(pixels, None if valid.all() else valid)


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


def band_marks(path: str | Path) -> list[str]:
    """What each band of an image file is marked as: ``red``, ``alpha``, ``undefined`` ...

    Raises:
        ValueError: It cannot be read.
    """
    info = raster_info(path)
    if not info.by_gdal:
        return ['red', 'green', 'blue'] if info.bands == 3 else ['gray'] * info.bands
    with open_raster(path) as raster:
        return [band.name for band in raster.colorinterp]


def copy_window(path: str | Path, target: str | Path, window: Sequence[int]) -> None:
    """Write a part of an image file as a GeoTIFF of the same bands, numbers, no data and place.

    Args:
        path: Any file that :func:`read_rgb` reads.
        target: The GeoTIFF; it is there when it is whole.
        window: Left, top, right and lower end in pixels, within the image.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: The file cannot be read.
    """
    left, top, right, bottom = window
    rasterio = import_rasterio(path)
    settings: dict[str, Any] = dict(
        driver='GTiff', compress='deflate', photometric='minisblack', width=right - left
    )
    if not raster_info(path).by_gdal:
        bands, valid = read_picture(Path(path))
        bands = bands[:, top:bottom, left:right]
        mask = None if valid is None else valid[top:bottom, left:right]
    else:
        with open_raster(path) as raster:
            part = rasterio.windows.Window(left, top, right - left, bottom - top)
            bands = read_bands(raster, range(1, count_bands(raster) + 1), window=part)
            settings.update(
                crs=raster.crs, transform=raster.window_transform(part), nodata=raster.nodata
            )
            kinds = {flag.name for flags in raster.mask_flag_enums for flag in flags}
            own = 'per_dataset' in kinds and 'alpha' not in kinds
            mask = raster.dataset_mask(window=part) > 0 if own else None
    settings.update(height=bottom - top, count=len(bands), dtype=bands.dtype)
    # In memory first, since GDAL is silent about a disk that is full.
    with rasterio.MemoryFile() as memory:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            memory.open(**settings) as out,
        ):
            out.write(bands)
            if mask is not None:
                out.write_mask(mask)
        write_atomic(Path(target), bytes(memory.getbuffer()))


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


def _as(value: float, kind: np.dtype) -> Any:
    """A number as pixels of a type would hold it."""
    if kind.kind == 'f':
        return kind.type(value)
    return int(value) if value.is_integer() else value
