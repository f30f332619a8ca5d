# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files, locks, text files, digests, and the weight files of a folder."""

from __future__ import annotations

import codecs
import errno
import hashlib
import io
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from .errors import DiskFaultError, InUseError

_WEIGHTS = ('.safetensors', '.bin', '.pt', '.pth')
_WHOLE = ('model.safetensors', 'pytorch_model.bin')
_SHARD = re.compile(r'(.+)-\d+-of-(\d+)(\.\w+)')  # as transformers names them


@contextmanager
def replacing(path: Path, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """Let a file be written under a temporary name, so that ``path`` is never incomplete.

    Args:
        path: The file; its folder is created.
        shared: Whether other processes may write it at the same time. If not, the next process
            overwrites what a killed one has left.
        durable: Whether to flush the file to disk before it replaces another one.

    Yields:
        The path to write to. It replaces ``path`` at the end of the block, and is removed if the
        block fails.

    Raises:
        OSError: The file cannot be written; an existing one stays unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f'.{uuid.uuid4().hex}' if shared else ''
    partial = path.with_name(f'.{path.name}{mark}.part')
    try:
        yield partial
        if durable:
            with partial.open('rb') as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename not in (None, str(partial)):
            raise
        raise DiskFaultError(
            f'{path} cannot be written ({error.strerror or error}): make room there, or choose '
            'another folder.',
            error.errno,
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_atomic(path: Path, contents: bytes, shared: bool = False, durable: bool = False) -> None:
    """Write a file completely or not at all, see :func:`replacing`."""
    with replacing(path, shared, durable) as partial:
        partial.write_bytes(contents)


@contextmanager
def held(lock: Path, what: str, parts: Collection[str] = ()) -> Iterator[None]:
    """Hold a lock against other processes while a block runs.

    The operating system releases the lock when the process ends, however it ends, so nothing has to
    be cleaned up after a crash. Where there are no locks, nothing is excluded.

    Args:
        lock: A file for the lock alone. Its folder is created, and the last process removes it.
        what: What is done, and to what, for the error message.
        parts: Names of what is locked, such as files. Defaults to everything.

    Raises:
        InUseError: Another process holds the lock, or one of the parts.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return

    def take(file: TextIO, length: int = 0, start: int = 0) -> bool:
        try:
            # Locks are of the process, not of the open file, which its workers inherit.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError as error:
            return error.errno not in (errno.EACCES, errno.EAGAIN)  # True: there are no locks
        return True

    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open('a+', encoding='utf-8') as file:
        taken = ''
        if not parts and not take(file):
            file.seek(0)
            taken = file.read(200).strip() or 'by another process'
        for part in parts:
            start = int.from_bytes(
                hashlib.sha256(part.encode(errors='replace')).digest()[:7], 'big'
            )
            if not take(file, 1, start):
                taken = part
        if taken or not (lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())):
            raise InUseError(
                f'{what} is already under way ({taken or "by another process"}): wait for it, or '
                f'end it; {lock} is let go with its process.'
            )
        if not parts:
            file.truncate(0)
            file.write(f'process {os.getpid()} on {os.uname().nodename}')
            file.flush()
        try:
            yield
        finally:
            if take(file):
                lock.unlink(missing_ok=True)


def read_list(path: Path) -> list[str]:
    """Read a list with one name per line.

    Args:
        path: See :func:`read_text`.

    Returns:
        The lines in order, stripped, without blank ones.

    Raises:
        FileNotFoundError: See :func:`read_text`.
        ValueError: See :func:`read_text`.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_text(path: Path) -> str:
    """Read a text file written by any editor.

    Args:
        path: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Returns:
        The text without the mark.

    Raises:
        FileNotFoundError: The file does not exist or is a folder.
        ValueError: The file has another encoding; the message guesses which.
    """
    if not path.is_file():
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise FileNotFoundError(f'The list {path} {what}: give a text file, one name a line.')
    raw = path.read_bytes()
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode('utf-16' if wide else 'utf-8-sig')
    except UnicodeDecodeError as error:
        guess = 'UTF-16 without a byte order mark' if raw.count(0) else 'Latin-1 or Windows-1252'
        line = raw[: error.start].count(b'\n') + 1
        raise ValueError(
            f'The list {path} is not in UTF-8 (line {line}, byte 0x{raw[error.start]:02x}; its '
            f'encoding is probably {guess}): save it as UTF-8.'
        ) from error
    if '\0' in text:
        raise ValueError(
            f'The list {path} has zero bytes, so its encoding is probably UTF-16 without a byte '
            'order mark: save it as UTF-8.'
        )
    return text


def write_png(path: Path, pixels: np.ndarray, shared: bool = False) -> None:
    """Write an image (H, W, 3) RGB or (H, W), uint8, losslessly and atomically.

    Photographs are stored uncompressed: they hardly shrink, and training reads them many times, in
    a third of the time. Label maps are compressed. See :func:`replacing` for ``shared``.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG', compress_level=0 if pixels.ndim == 3 else 6)
    write_atomic(path, buffer.getvalue(), shared)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Hash JSON-compatible settings, independent of the order of their keys.

    Args:
        settings: Nested dicts, sequences, strings and numbers.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def model_weights(folder: Path) -> list[Path]:
    """List the weight files of a model's folder.

    Args:
        folder: A snapshot of the Hugging Face hub, or any folder that transformers loads.

    Returns:
        The files, sorted; empty if some of them are missing, as after an interrupted download.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS and path.is_file())
    shards = Counter(m.groups() for path in files if (m := _SHARD.fullmatch(path.name)))
    complete = any(count == int(total) for (_, total, _), count in shards.items())
    if shards and not complete and not any(path.name in _WHOLE for path in files):
        return []
    return files


def file_digest(path: Path) -> str:
    """Hash the content of a file of any size.

    Returns:
        SHA-256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with path.open('rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
