# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the demo's teachers are shown: photographs of fabricated places, and captions of regions.

A place is photographed on two dates (season, light, sensor), and somebody has described rectangles
of it in words: 'an aerial photo of a red-roofed house, two cars and a lawn'. No class map, no
material and no outline of an object leaves this module.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from mmseg_semi_rs.models.class_embeddings import TEMPLATES
from mmseg_semi_rs.purification import PROMPTS

from . import scenes
from .scenes.layout import MARGIN_PIXELS, SUPERSAMPLING, Layout
from .scenes.materials import MATERIAL_ID

_ROAD, _HOUSE, _LOW, _TREE, _CAR, _ = PROMPTS['potsdam']
# What people tell apart from above: the words for it, one at random.
WORDS: dict[str, tuple[str, ...]] = {
    'road': _ROAD,
    'red house': (
        *_HOUSE,
        *(f'{how} {name}' for how in ('red-roofed', 'tiled') for name in _HOUSE),
    ),
    'dark house': (*_HOUSE, *(f'dark-roofed {name}' for name in _HOUSE)),
    'flat house': (*_HOUSE, *(f'flat-roofed {name}' for name in _HOUSE)),
    'lawn': _LOW,
    'meadow': ('meadow', 'grass', 'low vegetation'),
    'hedge': ('hedge', 'shrub', 'low vegetation'),
    'tree': ('tree', 'trees', 'tree crown'),
    'conifer': ('conifer', 'tree', 'trees', 'tree crown'),
    'car': _CAR,
    'court': ('sports court',),
    'site': ('construction site',),
    'pond': ('pond',),
}
_CAR_KIND = list(WORDS).index('car')
# Which surface of which part of the town is what, by label id: default, then materials.
_SURFACES: dict[int, tuple[str, dict[str, str]]] = {
    1: ('road', {}),
    2: ('flat house', {'tile_roof': 'red house', 'dark_roof': 'dark house'}),
    3: ('lawn', {'meadow': 'meadow', 'bush': 'hedge'}),
    4: ('tree', {'needles': 'conifer'}),
    5: ('car', {}),
    6: ('site', {'court': 'court', 'marking': 'court', 'water': 'pond'}),
}
_NUMBERS = ('', 'a', 'two', 'three', 'four', 'five or more')


class Region(NamedTuple):
    """A described rectangle.

    Attributes:
        top: First row in pixels of the place.
        left: First column.
        height: Rows.
        width: Columns.
        content: What is there, the largest first, with the number of cars: ``'lawn, car 2'``. Two
            regions with one content have captions that mean the same.
    """

    top: int
    left: int
    height: int
    width: int
    content: str


class Place(NamedTuple):
    """A place as the teachers know it.

    Attributes:
        photographs: Of two dates, (2, size, size, 3) uint8, RGB.
        regions: Described rectangles.
    """

    photographs: np.ndarray
    regions: list[Region]


def make_place(seed: int, index: int, size: int = 256, regions: int = 300) -> Place:
    """Fabricate a place that is no scene of the demo, whatever the seed.

    Args:
        seed: Seed of the places.
        index: Number of the place.
        size: Edge in pixels.
        regions: Rectangles to describe, of 10 to 56 pixels a side.

    Returns:
        The place.
    """
    rng = np.random.default_rng([seed, 100_000 + index])
    layout = scenes.make_layout(rng, size)
    photographs = [
        scenes.render_layout(layout, scenes.SceneStyle.sample(rng), rng) for _ in range(2)
    ]
    return Place(np.stack(photographs), _describe(layout, rng, regions))


def _describe(layout: Layout, rng: np.random.Generator, count: int) -> list[Region]:
    things = _things(layout)
    described = []
    for _ in range(count):
        height, width = np.exp(rng.uniform(math.log(10), math.log(56), 2)).astype(int).tolist()
        top = int(rng.integers(layout.size - height + 1))
        left = int(rng.integers(layout.size - width + 1))
        content = _content(things[top : top + height, left : left + width])
        if content:
            described.append(Region(top, left, height, width, content))
    return described


def _things(layout: Layout) -> np.ndarray:
    """Index into :data:`WORDS` of each pixel."""
    first = SUPERSAMPLING // 2
    material = layout.material[first::SUPERSAMPLING, first::SUPERSAMPLING]
    material = material[MARGIN_PIXELS:-MARGIN_PIXELS, MARGIN_PIXELS:-MARGIN_PIXELS]
    labels = scenes.layout_labels(layout)
    kinds = list(WORDS)
    things = np.zeros(labels.shape, np.uint8)
    for label, (default, others) in _SURFACES.items():
        things[labels == label] = kinds.index(default)
        for name, kind in others.items():
            things[(labels == label) & (material == MATERIAL_ID[name])] = kinds.index(kind)
    return things


def _content(things: np.ndarray) -> str:
    """What a person would mention: up to four things that take 6 %, and any car that shows."""
    share = np.bincount(things.ravel(), minlength=len(WORDS)) / things.size
    cars = share[_CAR_KIND]
    told = [index for index in np.argsort(-share) if share[index] > 0.06 and index != _CAR_KIND][:4]
    content = [list(WORDS)[index] for index in told]
    if cars * things.size >= 10:
        parked = cv2.connectedComponents((things == _CAR_KIND).astype(np.uint8))[0] - 1
        content.insert(0 if cars > 0.3 else len(content), f'car {min(parked, 5)}')
    return ', '.join(content)


def write_caption(content: str, rng: np.random.Generator) -> str:
    """Put the content of a region into a sentence, by synonyms and a template at random.

    Args:
        content: Of a :class:`Region`.
        rng: Source of randomness.

    Returns:
        The sentence.

    Examples:
        >>> write_caption('site', np.random.default_rng(0))
        'a construction site seen from above'
    """
    told = []
    for thing in content.split(', '):
        kind, _, number = thing.partition(' ') if thing.startswith('car ') else (thing, '', '1')
        name = str(rng.choice(WORDS[kind]))
        told.append(f'{_NUMBERS[int(number)]} {name}{"s" * (number != "1")}')
    listed = ' and '.join(filter(None, [', '.join(told[:-1]), told[-1]]))
    return str(rng.choice(TEMPLATES['aerial'])).replace('a {}', listed)
