# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Reader of masks of ids or colours, of any depth, with palettes or class names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ..utils.errors import one_line
from .gdal import open_raster
from .pictures import is_deep_png
from .place import Place, is_annotated, misfit, place_of, warp
from .reader import RasterInfo, raster_info

Colour = tuple[int, int, int]

_SMOOTH = 8  # largest channel difference within an area of one colour after lossy compression
_COUNTED = 256  # most frequent values of a mask that are counted one by one
_ALIKE = 0xF8F8F8  # bits of a colour that rarer ones, which are counted together, have in common
_ONE_BAND = 'write one band of ids, or colours of 8 bits'


@dataclass(frozen=True)
class Mask:
    """A decoded mask.

    Attributes:
        pixels: Shape (H, W), integers, or (H, W, 3), uint8, RGB.
        valid: Shape (H, W), bool, False where the mask has no data; None if it has data everywhere.
        grey: Whether ``pixels`` come from a colour picture whose channels are equal.
        direct: Whether a plain loader would read the same numbers from the file, as from a PNG with
            a single 8-bit band.
        lossy: Whether it was compressed lossily, which changes colours.
        palette: RGB of the values for which the file has colours.
        names: Names of the values for which the file has names.
        declared: Value, or colour as 0xRRGGBB, that the file declares as no data although it may be
            a class (``gdal_rasterize -a_nodata 0``); its pixels are not left out.
        place: Georeference, if the file has one.
        turned: Whether it was drawn on the upright picture and turned to match the stored one.
    """

    pixels: np.ndarray
    valid: np.ndarray | None = None
    grey: bool = False
    direct: bool = False
    lossy: bool = False
    palette: dict[int, Colour] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    declared: int | None = None
    place: Place | None = None
    turned: bool = False

    @property
    def coloured(self) -> bool:
        """Whether the pixels are colours."""
        return self.pixels.ndim == 3

    @property
    def colours(self) -> np.ndarray:
        """Pixels as RGB, (H, W, 3) uint8, coloured by the palette if there is one."""
        if self.coloured:
            return self.pixels
        if not self.palette:
            return np.stack([self.pixels] * 3, -1).astype(np.uint8)
        table = np.zeros((max(256, int(self.pixels.max()) + 1, max(self.palette) + 1), 3), np.uint8)
        for value, colour in self.palette.items():
            table[value] = colour
        return table[self.pixels]

    def count(self, interior: bool = False) -> Counter[int]:
        """Count the pixels with data of each value, or of each colour as 0xRRGGBB.

        Rare colours, as from compression and smoothing, are counted as the most frequent similar
        one; rare ones of many numbers are left out.

        Args:
            interior: Whether to count only pixels whose right and lower neighbours have nearly the
                same colour, which leaves out mixed colours along edges.
        """
        pixels = packed(self.pixels) if self.coloured else self.pixels
        counted = np.ones(pixels.shape, bool) if self.valid is None else self.valid
        if interior:
            wide = self.pixels.astype(np.int16).reshape(*pixels.shape, -1)
            counted = counted.copy()
            counted[:, :-1] &= np.abs(np.diff(wide, axis=1)).max(-1) <= _SMOOTH
            counted[:-1] &= np.abs(np.diff(wide, axis=0)).max(-1) <= _SMOOTH
        pixels = pixels[counted]
        if pixels.dtype == np.uint8:
            every = np.bincount(pixels.ravel(), minlength=256)
            return Counter({int(value): int(every[value]) for value in np.flatnonzero(every)})
        values, counts = np.unique(pixels, return_counts=True)
        order = np.argsort(-counts, kind='stable')
        values, counts = values[order], counts[order]
        totals = Counter(
            dict(zip(values[:_COUNTED].tolist(), counts[:_COUNTED].tolist(), strict=True))
        )
        if self.coloured:
            rare, pixels = values[_COUNTED:], counts[_COUNTED:]
            _, first, alike = np.unique(rare & _ALIKE, return_index=True, return_inverse=True)
            summed = np.bincount(alike, pixels, minlength=len(first)).astype(int)
            totals.update(dict(zip(rare[first].tolist(), summed.tolist(), strict=True)))
        return totals


def packed(rgb: np.ndarray) -> np.ndarray:
    """Convert colours (..., 3) uint8 to numbers 0xRRGGBB."""
    wide = rgb.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def unpacked(colour: int) -> Colour:
    """Convert a number 0xRRGGBB to a colour."""
    return colour >> 16, colour >> 8 & 255, colour & 255


def read_mask(
    path: str | Path, image: RasterInfo | None = None, warped: bool = False, upright: bool = False
) -> Mask:
    """Read a mask.

    Grey pictures are ids, even if stored as RGB; so are palette images, whose colours are kept
    separately. A lossily compressed picture is always taken as colours, since its numbers have
    changed. Pixels stay as they are stored, as for images (see :mod:`.reader`).

    Args:
        path: The file.
        image: The image that the mask must fit pixel by pixel; None for any.
        warped: Whether a mask on other ground than its image is resampled to that of the image;
            pixels it does not cover have no data.
        upright: Whether it was drawn on the picture as turned by its EXIF orientation. A mask whose
            height and width are swapped is always treated so.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: rasterio is needed and not installed.
        ValueError: The file cannot be read, holds fractions, or does not fit its image.
    """
    path = Path(path)
    mask = _read_raster(path) if raster_info(path).by_gdal else _read_picture(path)
    return mask if image is None else _fitted(mask, path, image, warped, upright)


def _fitted(mask: Mask, path: Path, image: RasterInfo, warped: bool, upright: bool) -> Mask:
    """Return a mask that fits its image pixel by pixel."""
    if mask.place is not None and image.place is not None:
        other = misfit(mask.place, image.place)
        if other is not None and not warped:
            raise ValueError(
                f'{path} {other}: lay masks on the ground of their images by --warp-masks, or '
                'export it on the grid of its image.'
            )
        if other is not None:
            return _laid(mask, mask.place, image.place)
    size, wanted = mask.pixels.shape[1::-1], (image.width, image.height)
    turned = image.orientation >= 5 and size == wanted[::-1] != wanted
    if not turned and size != wanted:
        raise ValueError(
            f'{path} is {size[0]} x {size[1]} pixels but its image {wanted[0]} x {wanted[1]}: draw '
            'it anew on this image.'
        )
    if not (turned or (upright and image.orientation > 1)):
        return mask
    pixels = _stored(mask.pixels, image.orientation)
    valid = None if mask.valid is None else _stored(mask.valid, image.orientation)
    return replace(mask, pixels=pixels, valid=valid, direct=False, turned=True)


def _laid(mask: Mask, own: Place, image: Place) -> Mask:
    pixels = np.moveaxis(np.atleast_3d(mask.pixels), -1, 0)
    valid = np.ones(mask.pixels.shape[:2], bool) if mask.valid is None else mask.valid
    laid = np.moveaxis(warp(pixels, own, image, 0), 0, -1)
    covered = warp(valid[None].astype(np.uint8), own, image, 0)[0] > 0
    return replace(
        mask,
        pixels=laid if mask.coloured else laid[..., 0],
        valid=_partly(covered),
        direct=False,
        place=image,
    )


def _stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Turn upright pixels (H, W, ...) back to how an EXIF orientation stores them."""
    if orientation in (5, 7):
        upright = upright.swapaxes(0, 1)
    if orientation in (6, 8):
        return np.rot90(upright, 1 if orientation == 6 else -1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 7: (-1, -1)}.get(orientation, (1, 1))
    return upright[::rows, ::columns]


def _read_picture(path: Path) -> Mask:
    try:
        with Image.open(path) as image:
            lossy = image.format in ('JPEG', 'MPO') or _is_lossy_webp(path)
            mode = image.mode
            table = image.getpalette('RGB') or [] if mode == 'P' else []
            pixels = np.asarray(image.convert('RGB') if lossy or _has_colours(mode) else image)
            valid = np.asarray(image)[..., -1] > 0 if mode in ('RGBA', 'LA') else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path} cannot be read ({one_line(error)}): replace the file.') from error
    if is_deep_png(path) and not mode.startswith('I'):
        raise ValueError(f'{path} has several channels of 16 bits: {_ONE_BAND}.')
    if mode == 'LA':
        pixels = pixels[..., 0]
    grey = pixels.ndim == 3 and not lossy and bool((pixels == pixels[..., :1]).all())
    if grey:
        pixels = pixels[..., 0]
    few_bits = _grey_bits(path)
    if few_bits is not None:  # decoders scale them to 8 bits
        pixels = pixels // (255 // (2**few_bits - 1))
    palette = {k // 3: (table[k], table[k + 1], table[k + 2]) for k in range(0, len(table), 3)}
    direct = mode in ('1', 'L', 'P') and not lossy and few_bits is None
    names = _category_names(path)
    mask = Mask(_whole(pixels, path), _partly(valid), grey, direct, lossy, palette, names)
    if not is_annotated(path):
        return mask
    with open_raster(path) as raster:
        declared, by_gdal, place = _told(raster)
    if by_gdal is not None:
        valid = by_gdal if valid is None else valid & by_gdal
    return replace(
        mask,
        valid=_partly(valid),
        direct=mask.direct and (valid is None or bool(valid.all())),
        declared=declared if declared is None or not mask.coloured else declared * 0x010101,
        place=place,
    )


def _is_lossy_webp(path: Path) -> bool:
    with path.open('rb') as file:
        header = file.read(16)
    return header[8:12] == b'WEBP' and header[12:] != b'VP8L'


def _grey_bits(path: Path) -> int | None:
    """Return the bits per sample, 2 or 4, of such a grey PNG, and None for any other file."""
    with path.open('rb') as file:
        header = file.read(26)
    grey = header.startswith(b'\x89PNG') and header[25:] == b'\0'
    return header[24] if grey and header[24] in (2, 4) else None


def _has_colours(mode: str) -> bool:
    return mode in ('RGB', 'RGBA', 'CMYK', 'YCbCr')


def _read_raster(path: Path) -> Mask:
    with open_raster(path) as raster:
        if len(raster.subdatasets) > 1:
            raise ValueError(
                f'{path} has {len(raster.subdatasets)} pages, of which only the first would be '
                'read: write the mask as one page.'
            )
        if raster.count not in (1, 3, 4):
            raise ValueError(
                f'{path} has {raster.count} bands, which is neither a mask of ids nor one of '
                'colours: give a raster of one band, or of three.'
            )
        try:
            bands = raster.read()
            lossy = _is_lossy(raster)
            declared, valid, place = _told(raster)
        except Exception as error:  # GDAL raises many types of errors
            reason = one_line(error.__cause__ or error)
            raise ValueError(f'{path} cannot be read ({reason}): replace the file.') from error
        try:
            table = raster.colormap(1)
        except ValueError:  # no palette
            table = {}
    names = _category_names(path)
    palette = {value: (colour[0], colour[1], colour[2]) for value, colour in table.items()}
    if bands.dtype.kind == 'f':
        known = np.isfinite(bands).all(0)
        valid = known if valid is None else valid & known
        bands = np.where(valid, bands, 0)
    if lossy and len(bands) == 1:  # as for a lossy picture
        bands = np.repeat(bands, 3, 0)
    rgb = len(bands) > 1 and bands.dtype == np.uint8
    differ = bool((bands[:3] != bands[0]).any())
    if differ and not rgb:
        raise ValueError(
            f'{path} has {len(bands)} bands of type {bands.dtype} that differ: {_ONE_BAND}.'
        )
    coloured = rgb and (lossy or differ)
    pixels = bands[:3].transpose(1, 2, 0) if coloured else bands[0]
    if declared is not None and coloured:
        declared *= 0x010101
    return Mask(
        _whole(pixels, path),
        _partly(valid),
        rgb and not coloured,
        False,
        lossy,
        palette,
        names,
        declared,
        place,
    )


def _is_lossy(raster: Any) -> bool:
    structure = raster.tags(ns='IMAGE_STRUCTURE')
    kinds = (structure.get('COMPRESSION'), structure.get('COMPRESSION_REVERSIBILITY', ''))
    return kinds[0] in ('JPEG', 'YCbCr JPEG') or kinds[1].startswith('LOSSY')


def _told(raster: Any) -> tuple[int | None, np.ndarray | None, Place | None]:
    """Return ``declared`` and ``valid`` of :class:`Mask` by GDAL, and the georeference."""
    declared = _declared(raster)
    valid = raster.dataset_mask() > 0 if declared is None else None
    return declared, valid, place_of(raster)


def _declared(raster: Any) -> int | None:
    """Return the no-data value of a raster if it might also be a class, else None."""
    flags = {flag.name for band in raster.mask_flag_enums for flag in band}
    values = set(raster.nodatavals)
    if flags != {'nodata'} or len(values) != 1:
        return None
    value = values.pop()
    return int(value) if 0 <= value <= 65535 and float(value).is_integer() else None


def _partly(valid: np.ndarray | None) -> np.ndarray | None:
    return None if valid is None or valid.all() else valid


def _whole(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Convert pixels to integers."""
    if pixels.dtype.kind == 'b':
        return pixels.astype(np.uint8)
    if pixels.dtype.kind != 'f':
        return pixels
    whole = np.rint(pixels)
    if not (whole == pixels).all():
        example = float(pixels[whole != pixels][0])
        raise ValueError(
            f'{path} holds fractions, e.g. {example:g}, which are no class ids: write the masks as '
            'whole numbers.'
        )
    return np.clip(whole, -(2**31), 2**31 - 1).astype(np.int64)  # -3.4e38 is a common no-data value


def _category_names(path: Path) -> dict[int, str]:
    """Read the names of values that GDAL stores in an ``.aux.xml`` file next to the raster."""
    aside = path.with_name(f'{path.name}.aux.xml')
    if not aside.is_file():
        return {}
    try:
        categories = ElementTree.parse(aside).getroot().findall('.//CategoryNames/Category')
    except ElementTree.ParseError:
        return {}
    named = {value: (node.text or '').strip() for value, node in enumerate(categories)}
    return {value: name for value, name in named.items() if name}
