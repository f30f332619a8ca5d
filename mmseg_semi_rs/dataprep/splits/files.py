# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Splits on disk: find tiles, read their classes, write and verify lists and manifest."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...rasters.files import list_images
from ...utils.commands import command
from ...utils.files import write_atomic
from ...utils.progress import map_threaded

MANIFEST = 'manifest.json'


@dataclass(frozen=True)
class Tiles:
    """Converted tiles.

    Attributes:
        labelled: Names (path below ``img_dir``, no suffix) of images with a label file; sorted.
        unlabelled: Names of images without one; sorted.
        labels: Label file of each labelled name.
    """

    labelled: list[str]
    unlabelled: list[str]
    labels: dict[str, Path]


def find_tiles(
    data_root: Path,
    img_dir: str = 'img_dir',
    ann_dir: str = 'ann_dir',
    img_suffix: str = '.png',
    seg_map_suffix: str = '.png',
) -> Tiles:
    """List the images of a dataset, and which of them have a label.

    Raises:
        FileNotFoundError: There are no images, or none has a label.
    """
    images = data_root / img_dir
    names = sorted(
        path.relative_to(images).as_posix()[: -len(img_suffix)]
        for path in images.rglob(f'*{img_suffix}')
        if not path.name.startswith('.')
    )
    if not names:
        raise FileNotFoundError(
            f'There is no *{img_suffix} below {images}: convert the data set with '
            f'{command("convert")}, or correct --data-root.'
        )
    labels = {name: data_root / ann_dir / f'{name}{seg_map_suffix}' for name in names}
    there = {name: path for name, path in labels.items() if path.is_file()}
    if not there:
        raise FileNotFoundError(
            f'None of the {len(names)} images below {images} has a label, such as '
            f'{labels[names[0]]}: correct --ann-dir or --seg-map-suffix.'
        )
    return Tiles(sorted(there), [name for name in names if name not in there], there)


def scan_labels(
    labels: Mapping[str, Path], workers: int | None = None, progress: bool = True
) -> dict[str, frozenset[int]]:
    """Read which ids occur in each label.

    Raises:
        ValueError: A label cannot be read or is not an image of 8-bit ids; the message names it.
    """

    def ids_of(path: Path) -> frozenset[int]:
        try:
            with Image.open(path) as image:
                ids = np.asarray(image)
        except Exception as error:  # Pillow raises errors of a dozen types for damaged files
            raise ValueError(
                f'{path} cannot be read ({error}): convert the data set again.'
            ) from error
        if ids.ndim != 2 or ids.dtype != np.uint8:
            raise ValueError(
                f'{path} is no label of 8-bit class ids (shape {ids.shape}, {ids.dtype}): convert '
                'the data set again.'
            )
        return frozenset(map(int, np.flatnonzero(np.bincount(ids.ravel(), minlength=256))))

    ids = map_threaded(
        ids_of, list(labels.values()), 'reading labels' if progress else None, workers
    )
    return dict(zip(labels, ids, strict=True))


def _package_version() -> str:
    try:
        return metadata.version('mmseg_semi_rs')
    except metadata.PackageNotFoundError:
        return 'not installed'


def write_split(
    folder: Path, lists: Mapping[str, Sequence[str]], recipe: Mapping[str, Any], overwrite: bool
) -> dict[str, Any]:
    """Write lists and, last, their manifest, whose presence thus means that they are complete.

    Args:
        folder: ``<data_root>/splits/<name>``.
        lists: Names by path below ``folder`` without suffix, e.g. ``'1-4/labeled'``.
        recipe: How the lists were made, stored in the manifest.
        overwrite: Whether to replace another split in ``folder``. Lists that only the old manifest
            names are then deleted.

    Returns:
        The manifest.

    Raises:
        ValueError: ``folder`` holds other lists.
    """
    texts = {f'{path}.txt': ''.join(f'{name}\n' for name in lists[path]) for path in lists}
    entries = {
        f'{path}.txt': {
            'sha256': hashlib.sha256(texts[f'{path}.txt'].encode()).hexdigest(),
            'lines': len(names),
        }
        for path, names in sorted(lists.items())
    }
    before = _read_manifest(folder, forgive=overwrite).get('lists', {})
    if not overwrite:
        for path, text in texts.items():
            file = folder / path
            if file.exists() and file.read_text(encoding='utf-8') != text:
                raise ValueError(
                    f'{file} exists and differs from the list that would be written: choose '
                    'another --name, or pass --overwrite.'
                )
        left = sorted(set(before) - set(texts))
        if left:
            raise ValueError(
                f'{folder} holds lists that would not be written again ({", ".join(left)}): name '
                'all ratios at once, choose another --name, or pass --overwrite.'
            )
    manifest = {
        'format': 1,
        **recipe,
        'lists': entries,
        'versions': {
            'mmseg_semi_rs': _package_version(),
            'python': platform.python_version(),
            'numpy': np.__version__,
        },
    }
    if before != entries:  # from here on the lists do not match the old manifest
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in set(before) - set(texts):
            (folder / path).unlink(missing_ok=True)
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / path, text.encode())
    write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1) + '\n').encode())
    return manifest


def _read_manifest(folder: Path, forgive: bool = False) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding='utf-8-sig')))
    except (json.JSONDecodeError, TypeError) as error:
        if forgive:
            return {}
        raise ValueError(
            f'{path} is no JSON manifest ({error}): write the split again with --overwrite.'
        ) from error


def verify_split(folder: Path) -> dict[str, Any]:
    """Compare lists on disk with the hashes in their manifest.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: The manifest or a list does not exist.
        ValueError: A list was changed; the message names it.
    """
    manifest = _read_manifest(folder)
    if not manifest:
        raise FileNotFoundError(
            f'{folder / MANIFEST} does not exist: write the split with {command("splits")}.'
        )
    for path, entry in manifest['lists'].items():
        file = folder / path
        if not file.is_file():
            raise FileNotFoundError(
                f'{file} does not exist though {MANIFEST} names it: write the split again with '
                f'{command("splits")}.'
            )
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != entry['sha256']:
            raise ValueError(
                f'{file} has the hash {digest[:12]}..., not {entry["sha256"][:12]}... of its '
                f'{MANIFEST}: it was changed by hand, write the split again with '
                f'{command("splits")}.'
            )
    return manifest


def changed_originals(folder: Path) -> str | None:
    """Check whether images or masks are newer than the lists made from them.

    Args:
        folder: Folder of the manifest, which names the ``originals``: folders, or a file.

    Returns:
        A message for those that have newer files; None if nothing is newer or known.
    """
    manifest = _read_manifest(folder, forgive=True)
    told = []
    for original in map(Path, manifest.get('originals', ())):
        listed = list_images(original) if original.is_dir() else {'': ['']}
        files = [original / name for names in listed.values() for name in names]
        made = (folder / MANIFEST).stat().st_mtime_ns
        newer = [file for file in files if file.is_file() and file.stat().st_mtime_ns > made]
        if newer:
            told.append(
                f'{len(newer)} of {len(files)} files of {original} are newer than the lists in '
                f'{folder}, e.g. {newer[0].name}: run {command("init")} again if they were changed '
                'or added, so that training sees it.'
            )
    return ' '.join(told) or None
