# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Search for image files in folders."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

PICTURE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
RASTER_SUFFIXES = ('.tif', '.tiff', '.vrt', '.jp2', '.img')  # read by GDAL
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, *RASTER_SUFFIXES)
# Other formats of images and arrays, which this package does not read.
_OTHER_SUFFIXES = {
    *('.gif', '.heic', '.heif', '.avif', '.jxl', '.tga', '.ppm', '.pgm', '.psd', '.dng', '.svg'),
    *('.j2k', '.ecw', '.sid', '.asc', '.bil', '.dat', '.hgt', '.nc', '.h5', '.hdf', '.hdf5'),
    *('.npy', '.npz', '.mat', '.zip', '.gz'),
}


def list_images(folder: str | Path) -> dict[str, list[str]]:
    """List the image files of a folder and its sub-folders, grouped by stem.

    Args:
        folder: Folder to search. Hidden files and folders (names with a leading dot) are skipped.

    Returns:
        Relative paths with ``/``, keyed by the path without suffix in the form of :func:`composed`;
        both sorted. Their suffixes are those of :data:`IMAGE_SUFFIXES`, upper or lower case.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in _files(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found[composed(path.with_suffix('').as_posix())].append(path.as_posix())
    return {stem: sorted(found[stem]) for stem in sorted(found)}


def unread_images(folder: str | Path) -> Counter[str]:
    """Count, by suffix, the files of image formats below a folder that this package cannot read."""
    suffixes = (path.suffix.lower() for path in _files(folder))
    return Counter(suffix for suffix in suffixes if suffix in _OTHER_SUFFIXES)


def _files(folder: str | Path) -> Iterator[Path]:
    """Yield the files below ``folder`` that are not hidden, as relative paths."""
    for where, folders, names in os.walk(folder, followlinks=True):
        here = Path(where).resolve()
        folders[:] = [  # without links to a parent folder, which would never end
            name
            for name in folders
            if not name.startswith('.') and not here.is_relative_to((here / name).resolve())
        ]
        below = Path(where).relative_to(folder)
        yield from (below / name for name in names if not name.startswith('.'))


def composed(name: str) -> str:
    """Normalise accents to one character each (NFC); macOS stores them as two (NFD)."""
    return unicodedata.normalize('NFC', name)
