# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Training masks for every image of a training run, drawn by a person or predicted by its networks.

Masks hold class ids, and 255 where the class is unknown. An automatic mask ignores the pixels whose
confidence is below the threshold of their class. An image is repeated in the training list in
proportion to the weight of its mask, so the weights act with any loss and a plain mmseg config.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from PIL import Image

from ..rasters.levels import RasterToBands, raster_conversion
from ..utils.files import read_list, write_atomic
from .label_bars import own_mask, read_prediction
from .predictor import NO_DATA

LISTED = 4  # how often the training list repeats an image of weight 1
_KNOWN = 'automatic.txt'
_MANIFEST = 'labels.json'


@dataclass
class LabelledImage:
    """An image and the origin of its mask.

    Attributes:
        image: Path of the image.
        mask: Path of the mask of class ids.
        source: ``'person'``, ``'automatic'``, or ``'edited'`` for an automatic mask that a person
            has changed since. An edited mask counts as drawn by a person.
        weight: Weight of the mask in [0, 1]: 1 for a person's mask, else the mean confidence over
            all pixels, where ignored pixels count as 0.
        times: How often the training list repeats the image.
    """

    image: str
    mask: str
    source: str
    weight: float = 1.0
    times: int = 0


def sources_of(dataset: Any) -> tuple[dict[Path, dict[str, Any]], list[Path]]:
    """Collect the labelled and the unlabelled images of a training dataset.

    Args:
        dataset: A ``SemiDataset``.

    Returns:
        The data info of each labelled image, by its path; and the paths of the unlabelled images.

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


def of_training_images(cfg: Config) -> Config:
    """Return a copy of a config whose network predicts the images of its training as these are.

    They are RGB already, and must not be made of bands once more by the config's ``raster``, which
    is for the original files. Only a network of bands is trained on these.
    """
    cfg = copy.deepcopy(cfg)
    if not isinstance(raster_conversion(cfg.get('raster') or {}), RasterToBands):
        cfg.raster = None
    return cfg


def find_listed(images: Collection[Path], listed: Path) -> list[Path]:
    """Find the images of a list, whose names may leave out the suffix and leading folders.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: The list is empty, or a name fits no image, or several.
    """
    found = []
    for name in read_list(listed):
        ends = f'/{name}'
        same = [p for p in images if p.as_posix().endswith((ends, ends + p.suffix))]
        if len(same) != 1:
            raise ValueError(
                f'{listed} names {name}, which fits {len(same)} of the labelled images: write '
                "names as in the lists of the config's training."
            )
        found += same
    if not found:
        raise ValueError(f'{listed} is empty: write a name of a labelled image a line.')
    return found


def common_root(images: Sequence[Path], out: Path) -> Path:
    """Return the deepest folder that contains all images, those of an earlier run too.

    Masks are named relative to it. If images were added outside the folder of the earlier run, the
    masks in ``out`` are moved to their new names.
    """
    root = Path(os.path.commonpath([path.parent for path in images]))
    manifest = out / _MANIFEST
    told = json.loads(manifest.read_text('utf-8')) if manifest.is_file() else {}
    before = Path(told.get('root', root))
    root = Path(os.path.commonpath([root, before]))
    if root != before:
        earlier = [Path(entry['image']) for entry in told['images']]
        for image in sorted(earlier, key=lambda path: -len(path.parts)):  # none is in the way
            old, new = (_mask_file(out, image, folder) for folder in (before, root))
            if old.is_file() and not new.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                old.rename(new)
    return root


def _mask_file(out: Path, image: Path, root: Path) -> Path:
    return (out / 'masks' / image.relative_to(root)).with_suffix('.png')


def write_masks(
    known: Mapping[Path, Mapping[str, Any]],
    predictions: Mapping[Path, Sequence[Path]],
    bars: np.ndarray,
    root: Path,
    out: Path,
) -> list[LabelledImage]:
    """Write the masks of all images below ``out/masks``.

    A file that this function did not write itself is never overwritten.

    Args:
        known: Data info of the images with a person's mask, which is copied as class ids.
        predictions: Prediction files of the other images, see :func:`predict_all`.
        bars: Lowest confidence of each class that counts as a label, in 255ths, (K,).
        root: Common folder of the images, see :func:`common_root`.
        out: Output folder. Its ``automatic.txt`` records the digests of all masks written.

    Returns:
        One entry per image; ``times`` is not set yet.
    """
    record = out / _KNOWN
    written = set(record.read_text('utf-8').split()) if record.is_file() else set()
    done = []
    out.mkdir(parents=True, exist_ok=True)
    with record.open('a', encoding='utf-8') as log:
        for image in [*known, *predictions]:
            target = _mask_file(out, image, root)
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
                log.write(f'{digest}\n')  # before the mask, so that a kill loses nothing
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
    """Write ``labels.json`` and the training lists, which repeat images by their mask's weight.

    Args:
        images: All images; their ``times`` is set here. An automatic mask of weight w is listed
            ``round(4 * w)`` times.
        root: Common folder of the images, see :func:`common_root`.
        out: Output folder.
        share: Smallest share of the lines that have a person's mask, in (0, 1).
        made_by: Description of how the automatic masks were made, stored in ``labels.json``.

    Returns:
        The image suffixes. Each has a list ``train<suffix>.txt`` of names without the suffix.
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
    told = {'made_by': made_by, 'root': str(root), 'images': [asdict(i) for i in images]}
    manifest = json.dumps(told, indent=1)
    write_atomic(out / _MANIFEST, manifest.encode())
    return suffixes


def _png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, 'PNG')
    return buffer.getvalue()
