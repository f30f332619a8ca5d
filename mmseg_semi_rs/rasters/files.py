# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Which files are images."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

PICTURE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
RASTER_SUFFIXES = ('.tif', '.tiff', '.vrt', '.jp2', '.img')  # GDAL reads them
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, *RASTER_SUFFIXES)
# Of images or arrays as well, which nothing here reads.
_OTHER_SUFFIXES = {
    *('.gif', '.heic', '.heif', '.avif', '.jxl', '.tga', '.ppm', '.pgm', '.psd', '.dng', '.svg'),
    *('.j2k', '.ecw', '.sid', '.asc', '.bil', '.dat', '.hgt', '.nc', '.h5', '.hdf', '.hdf5'),
    *('.npy', '.npz', '.mat', '.zip', '.gz'),
}


def list_images(folder: str | Path) -> dict[str, list[str]]:
    """Image files of a folder and its sub-folders, by stem.

    Args:
        folder: What is hidden in it (a name with a dot in front) is passed over.

    Returns:
        Paths below ``folder``, with ``/``, by the path without suffix as :func:`composed` writes
        it; both sorted. Suffixes are those of :data:`IMAGE_SUFFIXES` in any case.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in _files(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found[composed(path.with_suffix('').as_posix())].append(path.as_posix())
    return {stem: sorted(found[stem]) for stem in sorted(found)}


def unread_images(folder: str | Path) -> Counter[str]:
    """Number of files below a folder by suffix that are images too but of no kind that is read."""
    suffixes = (path.suffix.lower() for path in _files(folder))
    return Counter(suffix for suffix in suffixes if suffix in _OTHER_SUFFIXES)


def _files(folder: str | Path) -> Iterator[Path]:
    """Files that are not hidden, below ``folder`` and relative to it."""
    for where, folders, names in os.walk(folder, followlinks=True):
        here = Path(where).resolve()
        folders[:] = [  # without links to what they lie in, which would never end
            name
            for name in folders
            if not name.startswith('.') and not here.is_relative_to((here / name).resolve())
        ]
        below = Path(where).relative_to(folder)
        yield from (below / name for name in names if not name.startswith('.'))


def composed(name: str) -> str:
    """A name with accents as one sign each (NFC); macOS writes them as two (NFD)."""
    return unicodedata.normalize('NFC', name)
