# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiles and lists of the comparison: scaled once, labelled ones drawn by seed."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.progress import track

from mmseg_semi_rs.apis.clicks import choose_clicks, count_clicks
from mmseg_semi_rs.apis.suggestion import choose_tiles, list_candidates, tile_features
from mmseg_semi_rs.rasters.levels import RasterToRGB

_DRAWS = 200


class Amount(NamedTuple):
    """How much is labelled.

    Attributes:
        tiles: Number of tiles, None for all.
        images: Number of images that they are of, None for as many as possible.
        suggested: Whether tools/suggest.py chooses them.
        clicks: Which of their pixels, as ``0.05%`` or a number in each; None for all.
    """

    tiles: int | None
    images: int | None = None
    suggested: bool = False
    clicks: str | None = None

    @property
    def name(self) -> str:
        """Folder of the runs with so many labels."""
        name = 'all' if self.tiles is None else str(self.tiles)
        name += f'_of_{self.images}' if self.images else ''
        name += '_suggested' if self.suggested else ''
        return name + (f'_clicks_{self.clicks.replace("%", "pct")}' if self.clicks else '')


def parse_amount(text: str) -> Amount:
    """Read ``32/8``, ``32``, ``32@suggest`` or ``all``; each may end with ``@clicks0.05%``."""
    amount, _, clicks = text.partition('@clicks')
    found = re.fullmatch(r'(all)|([1-9]\d*)(?:/([1-9]\d*)|(@suggest))?', amount)
    if found is None or int(found[3] or 1) > int(found[2] or 1):
        raise SystemExit(
            f'--labelled {text} is no amount: give TILES, TILES/IMAGES with fewer images than '
            'tiles, TILES@suggest, or all; and @clicks0.05% behind it for so many of their pixels.'
        )
    try:
        if '@clicks' in text:
            count_clicks(clicks, 1)
    except ValueError as error:
        raise SystemExit(f'--labelled {text}: {error}') from error
    numbers = [int(number) if number else None for number in found.groups()[1:3]]
    return Amount(numbers[0], numbers[1], bool(found[4]), clicks or None)


def write_tiles(data: Path, ids: Sequence[str], suffix: str, side: int | None, out: Path) -> Path:
    """Scale all tiles once: images by area, labels by the nearest pixel.

    Args:
        data: Folder with images/ and labels/.
        ids: Names without suffix.
        suffix: Of the images.
        side: Longer side in pixels; None keeps the size.
        out: Where the folder of scaled tiles is made.

    Returns:
        The folder, with images/<id>.png and labels/<id>.png.
    """
    root = out / f'tiles_{side or "as_is"}'
    for part in ('images', 'labels'):
        (root / part).mkdir(parents=True, exist_ok=True)
    missing = [name for name in ids if not (root / 'labels' / f'{name}.png').is_file()]
    for name in track(missing, 'scaling tiles', transient=True):
        for part, end, flag, way in (
            ('images', suffix, cv2.IMREAD_COLOR, cv2.INTER_AREA),
            ('labels', '.png', cv2.IMREAD_GRAYSCALE, cv2.INTER_NEAREST),
        ):
            path = data / part / f'{name}{end}'
            pixels = cv2.imread(str(path), flag)
            if pixels is None:
                raise SystemExit(f'{path} is missing or damaged: correct the lists or --suffix.')
            factor = 1.0 if side is None else side / max(pixels.shape[:2])
            size = tuple(round(length * factor) for length in pixels.shape[1::-1])
            target = root / part / f'{name}.png'
            cv2.imwrite(str(target), cv2.resize(pixels, size, interpolation=way))
    return root


def choose_labelled(
    ids: Sequence[str],
    tiles: int | None,
    images: int | None,
    image_regex: str,
    labels: Path,
    classes: int,
    seed: int,
) -> list[str]:
    """Draw the tiles that have labels, as many of each image, so that every class occurs.

    Args:
        ids: Of all training tiles.
        tiles: How many; None for all.
        images: Of how many images; None for as many as possible.
        image_regex: Group 1 in an id is its image.
        labels: Folder of the masks.
        classes: Number of classes.
        seed: Same seed, same tiles.

    Returns:
        Sorted ids.
    """
    if tiles is None:
        return sorted(ids)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(ids):
        found = re.search(image_regex, name)
        groups[found[1] if found else name].append(name)
    rng = random.Random(f'{seed}/{tiles}/{images}')
    for _ in range(_DRAWS):
        drawn = rng.sample(sorted(groups), min(images or tiles, len(groups)))
        queues = [rng.sample(groups[image], len(groups[image])) for image in drawn]
        turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues
                 if turn < len(queue)]  # fmt: skip
        chosen = sorted(turns[:tiles])
        seen = {int(k) for name in chosen for k in np.unique(_label(labels / f'{name}.png'))}
        if set(range(classes)) <= seen:
            return chosen
    raise SystemExit(
        f'{tiles} tiles of {images or "many"} images never show all {classes} classes: take more.'
    )


def hold_out(labelled: Path, image_regex: str) -> tuple[Path, Path]:
    """Keep the tiles of every fourth labelled image, to calibrate on what nobody trains on.

    Args:
        labelled: List of the labelled tiles.
        image_regex: Group 1 in an id is its image.

    Returns:
        Lists beside it: of the tiles to learn from, and of those that are kept.
    """
    names = labelled.read_text(encoding='utf-8').split()
    found = {name: re.search(image_regex, name) for name in names}
    images = {name: match[1] if match else name for name, match in found.items()}
    kept = set(sorted(set(images.values()))[3::4])
    if not kept:
        raise SystemExit(f'{labelled} shows fewer than 4 images: label tiles of more to calibrate.')
    paths = labelled.with_name('learnt.txt'), labelled.with_name('calibration.txt')
    for path, wanted in zip(paths, (False, True), strict=True):
        listed = [name for name in names if (images[name] in kept) == wanted]
        path.write_text(''.join(f'{name}\n' for name in listed), encoding='utf-8')
    return paths


def suggest_labelled(
    ids: Sequence[str], tiles: int, image_regex: str, images: Path, kept: Path
) -> list[str]:
    """Choose the tiles that tools/suggest.py would, which knows no labels.

    Args:
        ids: Of all training tiles.
        tiles: How many.
        image_regex: Group 1 in an id is its image, which is a scene.
        images: Folder of the images.
        kept: File in which the tiles' features are kept.

    Returns:
        Sorted ids.
    """
    names, to_rgb = sorted(ids), RasterToRGB()
    if not kept.is_file():
        paths = [(name, images / f'{name}.png') for name in names]
        np.save(kept, tile_features(list_candidates(paths, None, to_rgb), to_rgb))
    found = [re.search(image_regex, name) for name in names]
    scenes = [match[1] if match else name for match, name in zip(found, names, strict=True)]
    return sorted(names[index] for index in choose_tiles(np.load(kept), scenes, tiles))


def keep_clicks(root: Path, names: Sequence[str], clicks: str) -> str:
    """Thin out the masks of tiles to the pixels that tools/suggest.py --clicks would ask for.

    Args:
        root: Folder with images/ and labels/.
        names: Of the tiles.
        clicks: How many pixels of each.

    Returns:
        The folder of the thinned masks, below the root.
    """
    folder = root / f'labels_clicks_{clicks.replace("%", "pct")}'
    folder.mkdir(exist_ok=True)
    for name in track(names, 'choosing clicks', transient=True):
        target = folder / f'{name}.png'
        if target.is_file():
            continue
        image = cv2.cvtColor(cv2.imread(str(root / 'images' / f'{name}.png')), cv2.COLOR_BGR2RGB)
        mask = _label(root / 'labels' / f'{name}.png')
        kept = np.full_like(mask, 255)
        rows, columns = choose_clicks(image, count_clicks(clicks, mask.size)).T
        kept[rows, columns] = mask[rows, columns]
        cv2.imwrite(str(target), kept)
    return folder.name


def _label(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
