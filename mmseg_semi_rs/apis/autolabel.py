# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Masks of all images of a training, by a person or by its networks, for a student to learn from.

What stands in the masks is class ids, 255 where nobody knows. An automatic mask leaves out the
pixels below its class's bar, and an image stands in the list as often as its mask is worth: so the
weights reach any loss, and a config of mmseg alone trains on them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..utils.files import write_atomic
from .label_bars import own_mask, read_prediction
from .predictor import NO_DATA

LISTED = 4  # times that an image of weight 1 stands in the list
_KNOWN = 'automatic.txt'
_MANIFEST = 'labels.json'


@dataclass
class LabelledImage:
    """An image and where its mask comes from.

    Attributes:
        image: File.
        mask: File of class ids.
        source: ``'person'``, ``'automatic'``, or ``'edited'``: an automatic one that a person has
            changed since, which counts as a person's.
        weight: What the mask is worth, in [0, 1]: of a person's 1, else the mean over all pixels of
            their confidence, 0 where they are left out.
        times: How often the image stands in the list.
    """

    image: str
    mask: str
    source: str
    weight: float = 1.0
    times: int = 0


def sources_of(dataset: Any) -> tuple[dict[Path, dict[str, Any]], list[Path]]:
    """Images of a training.

    Args:
        dataset: A ``SemiDataset``.

    Returns:
        What the data set knows of each labelled image; images without a label.

    Raises:
        ValueError: There is no unlabelled image.
    """

    def images(source: Any) -> dict[Path, dict[str, Any]]:
        infos = [source.get_data_info(index) for index in range(len(source))] if source else []
        return {Path(info['img_path']).absolute(): info for info in infos}

    known, others = images(dataset.labelled), images(dataset.unlabelled)
    unlabelled = [path for path in others if path not in known]
    if not unlabelled:
        raise ValueError(
            'The config has no unlabelled images, so that there is nothing to label: give one '
            'whose train_dataloader.dataset has a source "unlabelled".'
        )
    return known, unlabelled


def common_root(images: Sequence[Path]) -> Path:
    """The folder that holds all images, below which their masks have their names."""
    return Path(os.path.commonpath([path.parent for path in images]))


def write_masks(
    known: Mapping[Path, Mapping[str, Any]],
    predictions: Mapping[Path, Sequence[Path]],
    bars: np.ndarray,
    root: Path,
    out: Path,
) -> list[LabelledImage]:
    """Write the masks of all images below ``out/masks``.

    A mask that this function has not written itself is never replaced.

    Args:
        known: Images with a person's mask, of which a copy in class ids is written.
        predictions: Of the others, see :func:`predict_all`.
        bars: Smallest probability of each class that counts, in 255ths, (K,).
        root: See :func:`common_root`.
        out: Folder; ``automatic.txt`` in it has the digests of what was written.

    Returns:
        The images; how often they are listed is not said yet.
    """
    record = out / _KNOWN
    written = set(record.read_text('utf-8').split()) if record.is_file() else set()
    done = []
    out.mkdir(parents=True, exist_ok=True)
    with record.open('a', encoding='utf-8') as log:
        for image in [*known, *predictions]:
            target = (out / 'masks' / image.relative_to(root)).with_suffix('.png')
            entry = LabelledImage(str(image), str(target), 'person')
            if image in known:
                mask = own_mask(known[image])
            else:
                labels, confidence = read_prediction(predictions[image])
                bar = np.append(bars, np.full(256 - len(bars), 256))[labels]
                kept = confidence >= bar
                mask = np.where(kept, labels, np.uint8(NO_DATA))
                entry.source = 'automatic'
                entry.weight = float((confidence * kept).mean() / 255)
            contents = _png(mask)
            digest = hashlib.sha256(contents).hexdigest()
            there = hashlib.sha256(target.read_bytes()).hexdigest() if target.is_file() else None
            if there is not None and there not in written:
                entry.source, entry.weight = 'edited', 1.0
            elif there != digest:
                log.write(f'{digest}\n')  # before the mask, so that a kill between costs nothing
                log.flush()
                written.add(digest)
                write_atomic(target, contents)
            done.append(entry)
    return done


def write_lists(
    images: Sequence[LabelledImage],
    root: Path,
    out: Path,
    share: float,
    made_by: Mapping[str, Any],
) -> list[str]:
    """List each image as often as its mask is worth, and write ``labels.json``.

    Args:
        images: All; how often they are listed is written into them. An automatic mask of weight w
            is listed ``round(4 w)`` times.
        root: See :func:`common_root`.
        out: Folder.
        share: Of the lines that are of a person's masks, in (0, 1), if they are fewer.
        made_by: What ``labels.json`` is to say of the automatic masks.

    Returns:
        The suffixes of images; each has a list ``train<suffix>.txt``, without suffixes of images.
    """
    person = [image for image in images if image.source != 'automatic']
    for image in images:
        image.times = round(LISTED * image.weight)
    automatic = sum(image.times for image in images if image.source == 'automatic')
    for image in person:
        wanted = share / (1 - share) * automatic / len(person)
        image.times = max(LISTED, round(wanted))
    lines: dict[str, list[str]] = {}
    for image in images:
        path = Path(image.image)
        name = path.relative_to(root).with_suffix('').as_posix()
        lines.setdefault(path.suffix, []).extend([f'{name}\n'] * image.times)
    suffixes = sorted(suffix for suffix, listed in lines.items() if listed)
    for suffix in suffixes:
        write_atomic(out / f'train{suffix}.txt', ''.join(lines[suffix]).encode())
    told = {'made_by': made_by, 'images': [asdict(image) for image in images]}
    manifest = json.dumps(told, indent=1)
    write_atomic(out / _MANIFEST, manifest.encode())
    return suffixes


def _png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, 'PNG')
    return buffer.getvalue()
