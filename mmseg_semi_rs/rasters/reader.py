# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Reader of rasters of any depth and number of bands as the pixels that networks are trained on.

GDAL (rasterio) reads TIFF and other rasters, Pillow 8-bit pictures and OpenCV 16-bit ones; GDAL
also reads georeference and no data from files next to a picture. All give pixels as they are
stored: an orientation in EXIF or TIFF tags is never applied, neither to an image nor to its mask
nor to its map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..utils.files import write_atomic
from .files import RASTER_SUFFIXES
from .gdal import count_bands, import_rasterio, open_raster, read_bands, read_window
from .levels import RasterToRGB
from .pictures import PLAIN_MODES, decode, is_deep_png, is_transparent, open_picture, orientation_of
from .place import Place, is_annotated, place_of

BYTES = ('uint8', 'int8')

_LOADED_ALIKE = ('PNG', 'JPEG', 'MPO')
_STRIP = 1024  # rows read at a time, which bounds the memory for rasters of many bands and bits


@dataclass(frozen=True)
class RasterInfo:
    """Header of an image file.

    Attributes:
        width: Width in pixels, as stored.
        height: Height in pixels, as stored.
        bands: Number of bands, without alpha where Pillow identifies it.
        dtype: Name of the data type, e.g. ``'uint16'``.
        transparent: Whether pixels may be marked as no data, by a value, a mask or alpha.
        plain: Whether mmseg's loaders read the same pixels: an upright 8-bit PNG or JPEG.
        by_gdal: Whether GDAL reads the file.
        orientation: EXIF orientation, 1 to 8 (0 if damaged), which is never applied.
        place: Georeference by a transform or ground control points, if there is one.
        located: Whether there is any georeference, including rational polynomials (RPC).
        units: Scale and offset of the first band to physical units, which are never applied; (1, 0)
            if none are declared.
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
    units: tuple[float, float] = (1.0, 0.0)

    @property
    def deep(self) -> bool:
        """Whether pixels have more than 8 bits, so that a stretch is needed."""
        return self.dtype not in BYTES


class RGBPixels(NamedTuple):
    """Pixels of an image as networks are trained on.

    Attributes:
        pixels: RGB, shape (H, W, 3), uint8; for :class:`RasterToBands` (H, W, N), float32.
        valid: Shape (H, W), bool, False where there is no data; None if there is data everywhere.
    """

    pixels: np.ndarray
    valid: np.ndarray | None


def raster_info(path: str | Path) -> RasterInfo:
    """Read the header of an image file.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: rasterio is needed and not installed.
        ValueError: It is not an image, or holds complex numbers; the message gives the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'The image {path} does not exist: correct the path.')
    if path.suffix.lower() in RASTER_SUFFIXES:
        return _raster_info(path)
    try:
        info = _picture_info(path)
    except ValueError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):  # too large for Pillow only
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
            units=(float(raster.scales[0]), float(raster.offsets[0])),
        )


def _picture_info(path: Path) -> RasterInfo | None:
    """Return the header as read by Pillow; None if Pillow cannot decode all bits of the pixels."""
    with open_picture(path) as image:
        if image.mode not in PLAIN_MODES or is_deep_png(path):
            return None
        orientation = orientation_of(image, path)
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
    """Read an image file of any kind as RGB or as bands.

    Args:
        path: PNG, JPEG, TIFF or any other format that Pillow or GDAL reads.
        to_rgb: Chooses and stretches the bands. Defaults to 8-bit pixels as they are.

    Raises:
        FileNotFoundError: The file does not exist.
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


def read_picture(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the pixels of a picture, and its no data from files next to it.

    Returns:
        Bands (1 or 3, H, W) of 8 or 16 bits; and where it has data, (H, W) bool, None for
        everywhere.

    Raises:
        ImportError: Files next to it need rasterio, which is not installed.
        ValueError: The file cannot be read.
    """
    bands, valid = decode(path)
    if is_annotated(path):
        with open_raster(path) as raster:
            beside = raster.dataset_mask() > 0
        valid = beside if valid is None else valid & beside
    return bands, valid


def read_valid(path: Path) -> np.ndarray | None:
    """Read where an image file has data, without decoding files that cannot declare it.

    Args:
        path: An image file of any kind.

    Returns:
        Shape (H, W), bool; None for everywhere, also if the file cannot be read.
    """
    try:
        if path.suffix.lower() in RASTER_SUFFIXES:
            with open_raster(path) as raster:
                flags = {flag.name for band in raster.mask_flag_enums for flag in band}
                return None if flags == {'all_valid'} else raster.dataset_mask() > 0
        if is_annotated(path) or is_transparent(path):
            return read_picture(path)[1]
    except (ImportError, ValueError):
        pass
    return None


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


def band_marks(path: str | Path) -> list[str]:
    """Return the colour interpretation of each band: ``red``, ``alpha``, ``undefined`` ...

    Raises:
        ValueError: The file cannot be read.
    """
    info = raster_info(path)
    if not info.by_gdal:
        return ['red', 'green', 'blue'] if info.bands == 3 else ['gray'] * info.bands
    with open_raster(path) as raster:
        return [band.name for band in raster.colorinterp]


def copy_window(path: str | Path, target: str | Path, window: Sequence[int]) -> None:
    """Write a window of an image as a GeoTIFF of the same bands, values, no data and georeference.

    Args:
        path: Any file that :func:`read_rgb` reads.
        target: The GeoTIFF, written atomically.
        window: Left, top, right and bottom in pixels, within the image.

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
    # In memory first, since GDAL does not report a full disk.
    with rasterio.MemoryFile() as memory:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            memory.open(**settings) as out,
        ):
            out.write(bands)
            if mask is not None:
                out.write_mask(mask)
        write_atomic(Path(target), bytes(memory.getbuffer()))
