# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Masks as people have them: ids or colours, of any depth, with palettes and names of classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from .reader import TIFF_SUFFIXES, open_raster, raster_info

Colour = tuple[int, int, int]

_CALM = 8  # largest difference of a channel in an area of one colour, after lossy compression
_COUNTED = 256  # different colours of one mask that are counted one by one


@dataclass(frozen=True)
class Mask:
    """A decoded mask.

    Attributes:
        pixels: Shape (H, W), whole numbers, or (H, W, 3), uint8, RGB.
        valid: Shape (H, W), bool, False where the mask has no data; None where it has everywhere.
        grey: Whether ``pixels`` are those of a colour picture that happens to be grey.
        direct: Whether a loader would find the very same numbers in the file: one lossless band of
            8 bits.
        lossy: Whether it was compressed lossily, so that colours have strayed.
        palette: RGB of the values that the file has colours for.
        names: Names of the values that the file has names for.
    """

    pixels: np.ndarray
    valid: np.ndarray | None = None
    grey: bool = False
    direct: bool = False
    lossy: bool = False
    palette: dict[int, Colour] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    @property
    def painted(self) -> bool:
        """Whether it holds colours."""
        return self.pixels.ndim == 3

    def count(self, calm: bool = False) -> Counter[int]:
        """Pixels of each value, of a colour as the number 0xRRGGBB; those without data left out.

        Args:
            calm: Count only those whose right and lower neighbours have nearly their colour, so
                that mixtures along edges are left out.
        """
        pixels = packed(self.pixels) if self.painted else self.pixels
        counted = np.ones(pixels.shape, bool) if self.valid is None else self.valid
        if calm:
            wide = self.pixels.astype(np.int16).reshape(*pixels.shape, -1)
            counted = counted.copy()
            counted[:, :-1] &= np.abs(np.diff(wide, axis=1)).max(-1) <= _CALM
            counted[:-1] &= np.abs(np.diff(wide, axis=0)).max(-1) <= _CALM
        pixels = pixels[counted]
        if pixels.dtype == np.uint8:
            every = np.bincount(pixels.ravel(), minlength=256)
            return Counter({int(value): int(every[value]) for value in np.flatnonzero(every)})
        values, counts = np.unique(pixels, return_counts=True)
        order = np.argsort(-counts, kind='stable')[:_COUNTED]
        return Counter({int(values[k]): int(counts[k]) for k in order})


def packed(rgb: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 as numbers 0xRRGGBB."""
    wide = rgb.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def unpacked(colour: int) -> Colour:
    """The number 0xRRGGBB as a colour."""
    return colour >> 16, colour >> 8 & 255, colour & 255


def read_mask(path: str | Path) -> Mask:
    """Read a mask.

    Grey pictures are ids, also when they are stored as RGB; palette images are ids whose colours
    are kept aside. A lossily compressed picture is one of colours in any case, since its numbers
    have strayed.

    Raises:
        FileNotFoundError: It does not exist.
        ImportError: rasterio is needed and not installed.
        ValueError: It cannot be read, or holds fractions.
    """
    path = Path(path)
    info = raster_info(path)
    if path.suffix.lower() in TIFF_SUFFIXES and (info.georeferenced or not info.by_pillow):
        return _read_raster(path)
    try:
        with Image.open(path) as image:
            lossy = image.format in ('JPEG', 'MPO')
            mode = image.mode
            table = image.getpalette('RGB') or [] if mode == 'P' else []
            pixels = np.asarray(image.convert('RGB') if lossy or _has_colours(mode) else image)
            valid = np.asarray(image)[..., -1] > 0 if mode in ('RGBA', 'LA') else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path} cannot be read ({reason}): replace the file.') from error
    if mode == 'LA':
        pixels = pixels[..., 0]
    grey = pixels.ndim == 3 and not lossy and bool((pixels == pixels[..., :1]).all())
    if grey:
        pixels = pixels[..., 0]
    palette = {k // 3: (table[k], table[k + 1], table[k + 2]) for k in range(0, len(table), 3)}
    direct = mode in ('1', 'L', 'P') and not lossy
    names = _category_names(path)
    return Mask(_whole(pixels, path), _partly(valid), grey, direct, lossy, palette, names)


def _has_colours(mode: str) -> bool:
    return mode in ('RGB', 'RGBA', 'CMYK', 'YCbCr')


def _read_raster(path: Path) -> Mask:
    with open_raster(path) as raster:
        if raster.count not in (1, 3, 4):
            raise ValueError(
                f'{path} has {raster.count} bands, which is neither a mask of ids nor one of '
                'colours: give a raster of one band, or of three.'
            )
        try:
            bands = raster.read()
            valid = raster.dataset_mask() > 0
        except Exception as error:  # GDAL's own errors, of many kinds
            reason = ' '.join(str(error.__cause__ or error).split())
            raise ValueError(f'{path} cannot be read ({reason}): replace the file.') from error
        try:
            table = raster.colormap(1)
        except ValueError:  # there is none
            table = {}
    names = _category_names(path)
    palette = {value: (colour[0], colour[1], colour[2]) for value, colour in table.items()}
    if bands.dtype.kind == 'f':
        known = np.isfinite(bands).all(0)
        valid &= known
        bands = np.where(known, bands, 0)
    coloured = len(bands) > 1 and bands.dtype == np.uint8
    painted = coloured and bool((bands[:3] != bands[0]).any())
    pixels = bands[:3].transpose(1, 2, 0) if painted else bands[0]
    direct = len(bands) == 1 and bands.dtype == np.uint8 and bool(valid.all())
    grey = coloured and not painted
    return Mask(_whole(pixels, path), _partly(valid), grey, direct, False, palette, names)


def _partly(valid: np.ndarray | None) -> np.ndarray | None:
    return None if valid is None or valid.all() else valid


def _whole(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Pixels as whole numbers."""
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
    return whole.astype(np.int64)


def _category_names(path: Path) -> dict[int, str]:
    """Names of values as GDAL keeps them in a file beside the raster."""
    aside = path.with_name(f'{path.name}.aux.xml')
    if not aside.is_file():
        return {}
    try:
        categories = ElementTree.parse(aside).getroot().findall('.//CategoryNames/Category')
    except ElementTree.ParseError:
        return {}
    named = {value: (node.text or '').strip() for value, node in enumerate(categories)}
    return {value: name for value, name in named.items() if name}
