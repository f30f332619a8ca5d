# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Evidence on disk: made once, read in every step."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from mmengine.logging import print_log

from ..utils.files import file_digest, settings_digest, write_atomic
from .evidence import Evidence, Region

_FORMAT = 1
_DIGEST = 64  # hexadecimal digits of a SHA-256
_STALE = 24 * 3600  # seconds after which no process can still be writing a file


class EvidenceStore:
    """Keeps the evidence of tiles for one verifier with one set of settings.

    ``<root>/<16 digits of the settings' SHA-256>`` holds ``settings.json``, for people, and an
    entry ``<key[:2]>/<key>.npz`` per tile, which ``numpy.load`` reads. The key is the SHA-256 of
    the tile's file, so that moved and renamed tiles are found and changed ones are not; other
    prompts, another model or version are other settings and so another folder.

    Any number of processes may write and read at once and be killed at any time: an entry is there
    whole or not at all. An entry carries a SHA-256 of its content, its key and its settings; one
    that does not match is damaged, which is logged and then the same as a missing one.

    Args:
        root: Folder of any number of settings; made by the first write.
        settings: ``Verifier.settings()``. If ``'weights'`` is None, the model is not on this
            machine, and the one folder in ``root`` is taken whose settings are equal in everything
            else.
        cache_bytes: Memory for decoded entries, the least recently used ones leave first. Defaults
            to 256 MiB.

    Attributes:
        settings: Those of the folder.
        folder: Where the entries of these settings are.
        damaged: Number of damaged entries met so far.

    Raises:
        ValueError: The weights are None and there is no such folder, or several.

    Examples:
        >>> store = EvidenceStore('data/evidence/potsdam', {'type': 'CLIPVerifier'})
        >>> store.read(store.key(__file__)) is None  # nothing was annotated
        True
    """

    def __init__(
        self,
        root: str | Path,
        settings: Mapping[str, Any],
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        self.root = Path(root)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        if self.settings.get('weights', '') is None:
            self.settings = self._settings_with_weights()
        self._digest = settings_digest(self.settings)
        self.folder = self.root / self._digest[:16]
        self.damaged = 0
        self._reported: set[str] = set()
        self._keys: dict[str, tuple[int, int, str]] = {}
        self._cache: OrderedDict[str, Evidence] = OrderedDict()
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
        self._lock = Lock()
        self._remove_stale()

    def key(self, path: str | Path) -> str:
        """Identify a tile by its content.

        Args:
            path: File of the tile. It is read again when its size or time changes.

        Returns:
            SHA-256 of the file, 64 hexadecimal digits.

        Raises:
            FileNotFoundError: There is no such file on this machine's disks.
        """
        name = str(path)
        try:
            state = Path(path).stat()
            known = self._keys.get(name)
            if known is not None and known[:2] == (state.st_size, state.st_mtime_ns):
                return known[2]
            digest = file_digest(Path(path))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'The tile {name} does not exist: correct the list or the folder that names it.'
            ) from error
        self._keys[name] = (state.st_size, state.st_mtime_ns, digest)
        return digest

    def path(self, key: str) -> Path:
        """File of an entry, whether it exists or not."""
        return self.folder / key[:2] / f'{key}.npz'

    def read(self, key: str) -> Evidence | None:
        """Read the evidence of a tile.

        Args:
            key: Of the tile, see :meth:`key`.

        Returns:
            None if there is none or it is damaged. It is shared with other readers: do not write
            into its arrays.
        """
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        try:
            evidence = _decode(self.path(key).read_bytes(), self._seal(key))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            self._report(key, error)
            return None
        self._remember(key, evidence)
        return evidence

    def write(self, key: str, evidence: Evidence) -> None:
        """Keep the evidence of a tile, in the place of what there is.

        Args:
            key: Of the tile.
            evidence: Of the tile.

        Raises:
            ValueError: The folder cannot be written to.
        """
        self.prepare()
        self._replace(self.path(key), _encode(evidence, self._seal(key)))
        with self._lock:
            self._reported.discard(key)
            self._forget(key)

    def prepare(self) -> None:
        """Make the folder and its ``settings.json``, so that one can know early that one can write.

        Raises:
            ValueError: The folder cannot be written to.
        """
        path = self.folder / 'settings.json'
        if not path.is_file() or _read_settings(path) != self.settings:
            content = json.dumps(self.settings, indent=1, sort_keys=True, ensure_ascii=False)
            self._replace(path, f'{content}\n'.encode())

    def keys(self) -> set[str]:
        """Keys of all entries, damaged ones included."""
        return {path.stem for path in self._entries()}

    def __len__(self) -> int:
        return sum(1 for _ in self._entries())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.path(key).is_file()

    @property
    def size_bytes(self) -> int:
        """Size of all entries on disk in bytes."""
        return sum(path.stat().st_size for path in self._entries())

    # Files.

    def _entries(self) -> list[Path]:
        return [path for path in self.folder.glob('??/*.npz') if len(path.stem) == _DIGEST]

    def _seal(self, key: str) -> bytes:
        """What an entry's digest covers beside its content."""
        return f'{self._digest}{key}'.encode()

    def _replace(self, path: Path, content: bytes) -> None:
        """Write a file under another name, then rename it."""
        try:
            write_atomic(path, content, shared=True)
        except OSError as error:
            raise ValueError(
                f'Evidence cannot be written to {path.parent} ({error}): make room and give write '
                'access there, or choose another folder as the store.'
            ) from error

    def _remove_stale(self) -> None:
        """Remove what processes left behind that were killed while they wrote."""
        for pattern in ('.*.part', '??/.*.part'):
            for partial in self.folder.glob(pattern):
                try:
                    if time.time() - partial.stat().st_mtime > _STALE:
                        partial.unlink()
                except OSError:  # another process was faster, or nobody may write here
                    continue

    def _settings_with_weights(self) -> dict[str, Any]:
        """The settings of the one folder that differ in nothing but the weights."""
        equal = {}
        for path in sorted(self.root.glob('*/settings.json')):
            found = _read_settings(path)
            if found is None or path.parent.name != settings_digest(found)[:16]:
                continue
            if {**found, 'weights': None} == self.settings:
                equal[str(path.parent)] = found
        if len(equal) != 1:
            several = f'those of {" and ".join(equal)} are' if equal else 'none is'
            raise ValueError(
                "The verifier's weights are not on this machine, and of the stored evidence in "
                f'{self.root} {several} of its other settings: put the weights in place, or '
                f'{"keep one of these folders" if equal else "copy the store here"}.'
            )
        ((folder, settings),) = equal.items()
        print_log(
            f"The verifier's weights are not on this machine: the stored evidence in {folder} is "
            'of the same other settings and is used.',
            logger='current',
        )
        return settings

    def _report(self, key: str, error: Exception) -> None:
        """Count a damaged entry, and say so once."""
        with self._lock:
            if key in self._reported:
                return
            self._reported.add(key)
            self.damaged += 1
        print_log(
            f'The stored evidence {self.path(key)} is damaged ({error}) and is taken as missing.',
            logger='current',
            level=logging.WARNING,
        )

    # Memory.

    def _remember(self, key: str, evidence: Evidence) -> None:
        with self._lock:
            self._forget(key)
            self._cache[key] = evidence
            self._cached_bytes += _size(evidence)
            while self._cached_bytes > self._cache_bytes:
                self._forget(next(iter(self._cache)))

    def _forget(self, key: str) -> None:
        evidence = self._cache.pop(key, None)
        if evidence is not None:
            self._cached_bytes -= _size(evidence)


def _size(evidence: Evidence) -> int:
    ids = evidence.region_ids
    return evidence.scores.nbytes + evidence.seen.nbytes + (0 if ids is None else ids.nbytes)


def _read_settings(path: Path) -> Any:
    """Content of a settings file, None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def _encode(evidence: Evidence, seal: bytes) -> bytes:
    """An npz archive whose comment, its very end, is the SHA-256 of the seal and all before it."""
    record = {
        'format': _FORMAT,
        'num_classes': evidence.num_classes,
        'size': list(evidence.size),
        'answer': evidence.answer,
        'regions': [list(region) for region in evidence.regions],
        'dropped': list(evidence.dropped),
        'truncated': evidence.truncated,
    }
    buffer = io.BytesIO()
    ids: dict[str, Any] = {}
    if evidence.region_ids is not None:
        ids['region_ids'] = evidence.region_ids
    np.savez_compressed(
        buffer,
        **ids,
        scores=evidence.scores,
        seen=np.packbits(evidence.seen),
        record=np.frombuffer(json.dumps(record).encode(), np.uint8),
    )
    with zipfile.ZipFile(buffer, 'a') as archive:
        archive.comment = bytes(_DIGEST)
    content = buffer.getvalue()[:-_DIGEST]
    return content + hashlib.sha256(seal + content).hexdigest().encode()


def _decode(data: bytes, seal: bytes) -> Evidence:
    """Read what :func:`_encode` has written; raises a number of errors if it is anything else."""
    content = data[:-_DIGEST]
    if hashlib.sha256(seal + content).hexdigest().encode() != data[-_DIGEST:]:
        raise ValueError('its digest does not match')
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        scores, packed = archive['scores'], archive['seen']
        region_ids = archive.get('region_ids')
        record = json.loads(archive['record'].tobytes())
    if record['format'] != _FORMAT or len(scores) != record['num_classes']:
        raise ValueError(f'format {record["format"]}, {record["num_classes"]} classes')
    height, width = scores.shape[1:]
    if packed.size != -(-height * width // 8):
        raise ValueError('its mask does not fit its scores')
    return Evidence(
        scores=scores,
        seen=np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool),
        size=(record['size'][0], record['size'][1]),
        answer=record['answer'],
        regions=tuple(
            Region(label, (box[0], box[1], box[2], box[3]), score, name)
            for label, box, score, name in record['regions']
        ),
        dropped=tuple(record['dropped']),
        truncated=record['truncated'],
        region_ids=region_ids,
    )
