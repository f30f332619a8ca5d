# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Files that are never half written, and the hashes by which they are known."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_atomic(path: Path, contents: bytes) -> None:
    """Write a file such that its name never stands for half of it."""
    partial = path.with_name(f'.{path.name}.part')
    partial.write_bytes(contents)
    partial.replace(path)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write an image (H, W, 3) RGB or (H, W), uint8, losslessly and atomically.

    Photographs are stored uncompressed: they hardly shrink, and training reads each of them many
    times, in a third of the time. Label maps are compressed.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG', compress_level=0 if pixels.ndim == 3 else 6)
    write_atomic(path, buffer.getvalue())


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Hash settings that JSON can express, whatever the order of their keys.

    Args:
        settings: Nested dicts, sequences, strings and numbers.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hash the content of a file.

    Args:
        path: An existing file of any size.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with path.open('rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
