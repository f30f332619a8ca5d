# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Which files are images."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from pathlib import Path

PICTURE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
RASTER_SUFFIXES = ('.tif', '.tiff', '.vrt', '.jp2', '.img')  # GDAL reads them
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, *RASTER_SUFFIXES)


def list_images(folder: str | Path) -> dict[str, list[str]]:
    """Image files of a folder and its sub-folders, by stem.

    Args:
        folder: What is hidden in it (a name with a dot in front) is passed over.

    Returns:
        Paths below ``folder``, with ``/``, by the path without suffix as :func:`composed` writes
        it; both sorted. Suffixes are those of :data:`IMAGE_SUFFIXES` in any case.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for where, folders, names in os.walk(folder, followlinks=True):
        here = Path(where).resolve()
        folders[:] = [  # without links to what they lie in, which would never end
            name
            for name in folders
            if not name.startswith('.') and not here.is_relative_to((here / name).resolve())
        ]
        below = Path(where).relative_to(folder)
        for name in names:
            if not name.startswith('.') and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                path = below / name
                found[composed(path.with_suffix('').as_posix())].append(path.as_posix())
    return {stem: sorted(found[stem]) for stem in sorted(found)}


def composed(name: str) -> str:
    """A name with accents as one sign each (NFC); macOS writes them as two (NFD)."""
    return unicodedata.normalize('NFC', name)
