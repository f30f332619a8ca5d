# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Masks made of points and areas that a user has drawn on a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...rasters.drawings import SUFFIXES, UNLABELLED, rasterise, read_drawings
from ...rasters.files import list_images
from ...rasters.reader import raster_info
from ...utils.files import write_png
from .mask_classes import IGNORED, WantedClass


def is_drawing(path: Path) -> bool:
    """Return whether labels are a file of points and areas, rather than a folder of masks."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def draw_masks(
    drawings_file: Path, image_dir: Path, named: Sequence[WantedClass], folder: Path
) -> tuple[list[WantedClass], int]:
    """Write a mask for each image that has drawings on it; pixels without a drawing are ignored.

    Args:
        drawings_file: See :func:`~.rasters.drawings.read_drawings`.
        image_dir: Folder of images, of which only georeferenced ones are used.
        named: Classes in the order of their ids, without values. If empty, the drawn classes are
            taken, sorted.
        folder: Output folder. Masks are named after their images; older masks are deleted.

    Returns:
        The classes with their values in the masks, and the number of labelled pixels.

    Raises:
        ImportError: fiona or rasterio is not installed.
        ValueError: A class is unknown or has a value, or no drawing lies on an image.
    """
    drawings = read_drawings(drawings_file)
    drawn = sorted({drawing.label for drawing in drawings})
    names = [each.name for each in named] or drawn
    unknown = [label for label in drawn if label not in names]
    if unknown or any(each.value is not None for each in named):
        raise ValueError(
            f'{drawings_file} has the classes {", ".join(drawn)}: name them all by --classes, '
            'without values, or leave --classes out.'
        )
    if len(names) > IGNORED:
        raise ValueError(f'{drawings_file} has {len(names)} classes, and masks have room for 255.')
    for old in folder.rglob('*.png'):
        old.unlink()
    labelled, located = 0, 0
    for stem, files in list_images(image_dir).items():
        try:
            place = raster_info(image_dir / files[0]).place
        except ValueError:  # reported by the survey of the folder
            place = None
        if place is None:
            continue
        located += 1
        mask = rasterise(drawings, names, place)
        pixels = int((mask != UNLABELLED).sum())
        if pixels:
            (folder / stem).parent.mkdir(parents=True, exist_ok=True)
            write_png(folder / f'{stem}.png', mask)
        labelled += pixels
    if not labelled:
        told = 'lies on none of them' if located else 'needs images that say where they lie'
        raise ValueError(f'{drawings_file} {told}: give the folder of the images it was drawn on.')
    return [WantedClass(name, number) for number, name in enumerate(names)], labelled
