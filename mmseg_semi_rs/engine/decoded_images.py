# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Remembers which images were decoded completely, so that later trainings need not do so again."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from ..utils.files import write_atomic


class DecodedImages:
    """Sizes of completely decoded images, identified by path, size and time stamp of the file.

    They are stored in ``$XDG_CACHE_HOME/mmseg_semi_rs`` (``~/.cache/mmseg_semi_rs``), in one file
    per folder of images. If that is not writable, nothing is stored.

    Args:
        folder: Folder of the images.
    """

    def __init__(self, folder: Path) -> None:
        cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmseg_semi_rs'
        name = hashlib.sha256(os.path.realpath(folder).encode(errors='replace')).hexdigest()[:16]
        self._file = cache / f'decoded_{name}.json'
        self._known: dict[str, list[int]] = {}
        self._changed = False
        with suppress(OSError, ValueError):
            known = json.loads(self._file.read_text(encoding='utf-8'))
            self._known = known if isinstance(known, dict) else {}

    def size_of(self, path: str) -> tuple[int, int] | None:
        """Width and height of a decoded image; None if it was not decoded, or has changed."""
        known = self._known.get(os.path.realpath(path))
        if not isinstance(known, list) or len(known) != 4 or known[:2] != _stamp(path):
            return None
        return known[2], known[3]

    def add(self, path: str, size: tuple[int, int]) -> None:
        """Add an image."""
        with suppress(OSError):
            self._known[os.path.realpath(path)] = [*_stamp(path), *size]
            self._changed = True

    def save(self) -> None:
        """Write the sizes if there are new ones."""
        if self._changed:
            with suppress(OSError):
                write_atomic(self._file, json.dumps(self._known).encode(), shared=True)


def _stamp(path: str) -> list[int]:
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns]
