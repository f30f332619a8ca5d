# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Whole scenes, and folders of them in Potsdam's on-disk layout."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .layout import IGNORE, ByteMap, layout_labels
from .light import SceneStyle, render_layout
from .planner import make_layout

# The scenes borrow names as the Potsdam tiles have them: '2_7' ... '7_14'.
_ROWS, _COLUMNS = range(2, 8), range(7, 15)
_RECIPE = 'fabricated.json'
_GENERATOR = 1  # raised whenever the same seed gives other pixels


def make_scene(seed: int, index: int, size: int = 256) -> tuple[ByteMap, ByteMap]:
    """Fabricate one labelled scene.

    One scene in six lies on the edge of the flight: a corner has no data, is black and ignored.

    Args:
        seed: Seed of the data set.
        index: Number of the scene; scenes of one seed are independent of each other.
        size: Edge in pixels of 0.3 m, at least 32.

    Returns:
        RGB image (size, size, 3) and labels (size, size) with ids 1..6 or 0 for "ignore", both
        uint8.

    Raises:
        ValueError: The scene is too small.

    Examples:
        >>> image, labels = make_scene(seed=0, index=3, size=64)
        >>> image.shape, labels.shape
        ((64, 64, 3), (64, 64))
    """
    rng = np.random.default_rng([seed, index])
    layout = make_layout(rng, size)
    image = render_layout(layout, SceneStyle.sample(rng), rng)
    labels = layout_labels(layout)
    if rng.uniform() < 1 / 6:
        rows, columns = np.mgrid[:size, :size] / size
        outside = rows * rng.uniform(0.5, 2) + columns < rng.uniform(0.15, 0.35)
        outside = np.rot90(outside, int(rng.integers(4)))
        image[outside], labels[outside] = 0, IGNORE
    return image, labels


def scene_names(count: int) -> list[str]:
    """Names of the first scenes, such as '2_7'.

    Args:
        count: At most 48.

    Returns:
        The names.

    Raises:
        ValueError: There are not so many names.
    """
    names = [f'{row}_{column}' for row, column in itertools.product(_ROWS, _COLUMNS)]
    if not 0 < count <= len(names):
        raise ValueError(
            f'{count} scenes were asked for: give a number in 1 .. {len(names)}, for which there '
            'are Potsdam tile names.'
        )
    return names[:count]


def _write_scene(
    folder: Path, part: str, name: str, scene: tuple[ByteMap, ByteMap], tile: int
) -> None:
    size = scene[0].shape[0]
    for top, left in itertools.product(range(0, size, tile), repeat=2):
        window = (slice(top, top + tile), slice(left, left + tile))
        file = f'{name}_{left}_{top}_{left + tile}_{top + tile}.png'
        for kind, array in zip(('img_dir', 'ann_dir'), scene, strict=True):
            path = folder / kind / part / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(array[window])).save(path)


def write_potsdam_layout(
    folder: str | Path,
    seed: int = 0,
    train: int = 32,
    val: int = 8,
    size: int = 256,
    tile: int = 128,
    workers: int = 0,
) -> Iterator[str]:
    """Write tiles of fabricated scenes as MMSegmentation's Potsdam converter names them.

    ``img_dir/{train,val}/<row>_<column>_<x0>_<y0>_<x1>_<y1>.png`` (RGB) and ``ann_dir/...`` (ids,
    0 = ignore). The folder appears when it is complete; one that was written with the same
    arguments is kept. This is a generator: it works as it is iterated over.

    Args:
        folder: Data root to make.
        seed: Seed of the scenes.
        train: Number of training scenes.
        val: Number of validation scenes; ``train + val`` at most 48.
        size: Edge of a scene in pixels.
        tile: Edge of a tile in pixels, a divisor of ``size``.
        workers: Processes that fabricate scenes; 0 for none beside this one.

    Yields:
        The name of each scene when it is written; nothing if the folder is there already.

    Raises:
        ValueError: The numbers do not fit, or ``folder`` holds something else.
    """
    folder = Path(folder)
    if tile < 1 or size % tile:
        raise ValueError(f'tile={tile} does not divide size={size}: give a divisor.')
    names = scene_names(train + val)
    recipe = dict(
        generator=_GENERATOR, seed=seed, train=train, val=val, size=size, tile=tile, names=names
    )
    if folder.exists():
        written = folder / _RECIPE
        if not written.is_file():
            raise ValueError(
                f'{folder} exists and holds no fabricated scenes ({_RECIPE} is missing): give '
                'another folder, or remove it.'
            )
        if json.loads(written.read_text(encoding='utf-8')) == recipe:
            return
        shutil.rmtree(folder)
    unfinished = folder.with_name(folder.name + '.part')
    shutil.rmtree(unfinished, ignore_errors=True)
    with ExitStack() as stack:
        fabricate: Callable[..., Iterator[tuple[ByteMap, ByteMap]]] = map
        if workers:
            fabricate = stack.enter_context(ProcessPoolExecutor(workers)).map
        scenes = fabricate(partial(make_scene, seed, size=size), range(train + val))
        for index, (name, scene) in enumerate(zip(names, scenes, strict=True)):
            _write_scene(unfinished, 'train' if index < train else 'val', name, scene, tile)
            yield name
    (unfinished / _RECIPE).write_text(json.dumps(recipe) + '\n', encoding='utf-8')
    unfinished.replace(folder)
