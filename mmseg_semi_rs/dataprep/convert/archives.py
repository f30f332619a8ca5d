# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Files of a public dataset as downloaded: in folders, in zip archives, or both."""

from __future__ import annotations

import functools
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...rasters.windows import Window, cut_window
from ...utils.files import write_png

# Errors of Pillow and zipfile for truncated, overwritten or mislabelled files.
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


_LARGEST = 2**30  # bytes; the largest scene of all datasets has a seventh of this


class SourceError(ValueError):
    """A downloaded file cannot be used; the message names it."""


@dataclass(frozen=True)
class SourceFile:
    """A file in a folder or in a zip archive.

    Attributes:
        root: The folder, or the zip archive.
        member: Path below ``root``, with ``/``.
        size: Uncompressed size in bytes.
        stamp: Checksum (in an archive) or modification time in ns (in a folder).
    """

    root: Path
    member: str
    size: int
    stamp: int

    def __str__(self) -> str:
        inside_archive = self.root.suffix.lower() == '.zip'
        return f'{self.root}!{self.member}' if inside_archive else str(self.root / self.member)

    @property
    def fingerprint(self) -> str:
        """Text that changes when the file is replaced."""
        return f'{self.member}:{self.size}:{self.stamp}'

    def read(self) -> bytes:
        """Read the contents of the file.

        Raises:
            SourceError: The file is missing, damaged, encrypted or too large.
        """
        if self.size > _LARGEST:
            raise SourceError(
                f'{self} unpacks to {self.size} bytes, and of one file at most {_LARGEST} are '
                'read: it is no scene of this data set, so download it again.'
            )
        try:
            if self.root.suffix.lower() == '.zip':
                changed = self.root.stat().st_mtime_ns
                return _open_archive(str(self.root), changed, os.getpid()).read(self.member)
            return (self.root / self.member).read_bytes()
        except (*_READ_ERRORS, KeyError) as error:
            raise SourceError(
                f'{self} cannot be read ({_reason(error)}): download it again.'
            ) from error

    def open_image(self) -> Image.Image:
        """Decode the file as an image.

        Raises:
            SourceError: The file is missing, damaged or not an image.
        """
        contents = self.read()
        try:
            image = Image.open(io.BytesIO(contents))
            image.load()
        except _READ_ERRORS as error:
            raise SourceError(
                f'{self} is damaged or no image ({_reason(error)}): download it again.'
            ) from error
        return image

    @property
    def suffix(self) -> str:
        """Suffix of the tiles cut from the file."""
        return '.png'

    def read_pixels(self) -> Any:
        """Read the image to cut tiles from, as any object with a ``shape`` of (H, W, ...).

        Raises:
            SourceError: The file is missing, damaged or not an 8-bit image.
        """
        image = self.open_image()
        if image.mode not in ('RGB', 'RGBA', 'L', 'P'):
            raise SourceError(
                f'{self} has pixels of type {image.mode!r} where an 8-bit RGB image is expected: '
                'give the RGB version of the data set.'
            )
        return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))

    def write_tile(self, path: Path, pixels: Any, window: Window) -> None:
        """Write a window of the result of :meth:`read_pixels`."""
        write_png(path, cut_window(pixels, window, 0))


def _reason(error: BaseException) -> str:
    return re.sub(r'<_io\.BytesIO object at 0x[0-9a-f]+>', 'contents', str(error)) or repr(error)


@functools.lru_cache(maxsize=8)
def _open_archive(path: str, changed: int, process: int) -> zipfile.ZipFile:
    # One handle per process, since forked processes would share the position in the file.
    return zipfile.ZipFile(path)


def _list_archive(path: Path) -> Iterator[SourceFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f'{path} is no readable zip archive ({_reason(error)}): download it again.'
        ) from error
    for info in members:
        if not info.is_dir():
            yield SourceFile(path, info.filename, info.file_size, info.CRC)


def find_sources(
    locations: Iterable[Path], pattern: re.Pattern[str]
) -> tuple[list[tuple[re.Match[str], SourceFile]], list[str]]:
    """Find files by name in folders and in the zip archives inside them.

    Args:
        locations: Folders or zip archives.
        pattern: Searched for in ``<folder or archive name>/<path below it>``, so that a pattern may
            use folder names whether or not the archive repeats them.

    Returns:
        Match and file, sorted by location and then by path; and a message for each zip archive that
        cannot be opened.

    Raises:
        FileNotFoundError: A location does not exist.
    """
    matches: list[tuple[re.Match[str], SourceFile]] = []
    broken: list[str] = []
    for location in locations:
        if not location.exists():
            raise FileNotFoundError(
                f'{location} does not exist: give the folder that holds the downloaded archives.'
            )
        sources = _list_location(location, broken)
        for source in sorted(sources, key=lambda item: (item.root, item.member)):
            if Path(source.member).name.startswith('._'):  # macOS metadata
                continue
            root = source.root.stem if source.root.suffix.lower() == '.zip' else source.root.name
            match = pattern.search(f'{root}/{source.member}')
            if match is not None:
                matches.append((match, source))
    return matches, broken


def _list_location(location: Path, broken: list[str]) -> Iterator[SourceFile]:
    for path in [location] if location.is_file() else location.rglob('*'):
        if not path.is_file():
            continue
        if path.suffix.lower() == '.zip' or path == location:
            try:
                yield from _list_archive(path)
            except SourceError as error:
                broken.append(str(error))
        else:
            status = path.stat()
            member = path.relative_to(location).as_posix()
            yield SourceFile(location, member, status.st_size, status.st_mtime_ns)
