# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Files that are never half written, and the hashes by which they are known."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """Let a file be written such that its name never stands for half of it.

    Args:
        path: The file; its folder is made.
        shared: Whether other processes may write it at the same time. If not, what a killed process
            has left behind is written over by the next.

    Yields:
        Where to write. It takes the place of ``path`` at the end of the block, and is removed where
        the block fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f'.{uuid.uuid4().hex}' if shared else ''
    partial = path.with_name(f'.{path.name}{mark}.part')
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: Path, contents: bytes, shared: bool = False) -> None:
    """Write a file whole or not at all, see :func:`replacing`."""
    with replacing(path, shared) as partial:
        partial.write_bytes(contents)


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
