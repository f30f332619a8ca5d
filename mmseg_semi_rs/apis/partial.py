# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Finished strips of a map that is still being predicted, stored on disk."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.files import write_atomic
from .mosaic import Strip

_FINGERPRINT = 'fingerprint'


class PartialMap:
    """A folder with one file per finished strip, from which a killed prediction resumes.

    Args:
        folder: The folder, created if missing.
        fingerprint: Digest of all that determines the strips. Strips of another one are deleted.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        mark = folder / _FINGERPRINT
        if folder.exists() and not (mark.is_file() and mark.read_text('utf-8') == fingerprint):
            self.remove()
        if not mark.is_file():  # with several processes, the first one writes it
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(mark, fingerprint.encode())

    @property
    def done(self) -> set[int]:
        """Numbers of the stored strips."""
        return {int(path.stem) for path in self.folder.glob('[0-9]*.npz')}

    def write(self, strip: Strip) -> None:
        """Store a strip atomically."""
        arrays = {name: value for name, value in vars(strip).items() if value is not None}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomic(self.folder / f'{strip.number:06d}.npz', buffer.getvalue())

    def __iter__(self) -> Iterator[Strip]:
        for number in sorted(self.done):
            with np.load(self.folder / f'{number:06d}.npz') as arrays:
                whole: dict[str, Any] = dict(arrays)
            for name in ('number', 'top', 'left'):
                whole[name] = int(whole[name])
            yield Strip(**whole)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)
