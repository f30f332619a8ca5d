# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Decoding of pictures by Pillow, and of 16-bit ones by OpenCV."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

_ORIENTATION_TAG = 0x0112
#: Pillow's modes with at most 8 bits per channel.
PLAIN_MODES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr')


def _short(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a file with Pillow; whatever is wrong becomes a ValueError with the reason."""
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


def is_deep_png(path: Path) -> bool:
    """Return whether a PNG has 16 bits per channel, half of which Pillow drops silently."""
    with path.open('rb') as file:
        header = file.read(25)
    return header.startswith(b'\x89PNG') and header[24:25] == b'\x10'


def is_transparent(path: Path) -> bool:
    """Return whether a picture may have transparent pixels, by alpha or by a value."""
    with open_picture(path) as image:
        return image.mode in ('LA', 'RGBA', 'PA') or 'transparency' in image.info


def orientation_of(image: Image.Image, path: Path) -> int:
    """Return the EXIF orientation of a picture, 1 to 8; 0 if the EXIF is damaged."""
    contents = image.info.get('exif') or (_late_exif(path) if image.format == 'PNG' else None)
    if not contents:
        return 1
    exif = Image.Exif()
    try:
        exif.load(contents)
        return int(exif.get(_ORIENTATION_TAG, 1))
    except Exception:  # Pillow raises errors of a dozen types for damaged EXIF
        return 0


def _late_exif(path: Path) -> bytes | None:
    """Return EXIF that follows the pixels of a PNG, which Pillow finds only after decoding them."""
    with path.open('rb') as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length = int.from_bytes(header[:4], 'big')
            if header[4:] == b'eXIf':
                return file.read(length)
            file.seek(length + 4, 1)
    return None


def decode(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a picture.

    Returns:
        Bands (1 or 3, H, W) of 8 or 16 bits; and where it is not transparent, (H, W) bool, or None
        for everywhere.

    Raises:
        ValueError: The file cannot be read.
    """
    with open_picture(path) as image:
        if image.mode in PLAIN_MODES and not is_deep_png(path):
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
