# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Colours for classes: those that people expect for a name, or else easily distinguished ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_NEAR = 60  # Euclidean distance in RGB below which colours are hard to tell apart
# Beginnings of words (up to three letters: whole words), of which the first match counts. Roads
# are darker than the grey of ignored pixels.
_EXPECTED: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ('wetland swamp marsh bog', (70, 170, 170)),
    ('water river lake pond sea ocean reservoir canal stream pool', (36, 107, 206)),
    ('forest tree wood', (20, 110, 50)),
    ('shrub bush garden orchard', (120, 150, 60)),
    ('crop farm agric field arable paddy cultivat irrigated', (230, 200, 80)),
    ('grass vegetation meadow pasture lawn range plant green', (110, 190, 90)),
    ('building roof house urban built resident industr factory town city', (210, 50, 50)),
    ('rail', (150, 90, 170)),
    ('road street imperv asphalt pavement traffic highway path parking track', (75, 75, 85)),
    ('bare barren soil sand land desert rock gravel ground dirt', (190, 140, 90)),
    ('car vehicle truck bus', (255, 220, 0)),
    ('ship boat', (255, 140, 0)),
    ('plane aircraft', (255, 100, 180)),
    ('solar', (60, 40, 120)),
    ('snow ice glacier', (190, 230, 255)),
    ('cloud', (240, 240, 240)),
    ('shadow shade', (50, 50, 110)),
    ('clutter unknown', (0, 0, 0)),
)
_BACKGROUND = re.compile(
    r'(background|bg|others?|rest|nothing|none|(no|not|non)[\W_]\w+)', re.IGNORECASE
)
_BLACK = (0, 0, 0)


def is_background(name: str) -> bool:
    """Return whether a class is called background, other or the like.

    Examples:
        >>> is_background('Background'), is_background('non-road'), is_background('back yard')
        (True, True, False)
    """
    return _BACKGROUND.fullmatch(name.strip()) is not None


def class_colours(names: Sequence[str]) -> list[list[int]]:
    """Choose the colours that people expect for class names, and distinct ones for other names.

    Args:
        names: Names of the classes.

    Returns:
        RGB of each class, 0 to 255, all different.

    Examples:
        >>> class_colours(['water', 'road', 'background'])
        [[36, 107, 206], [75, 75, 85], [0, 0, 0]]
    """
    found: list[Sequence[int] | None] = []
    for name in names:
        wanted = _BLACK if is_background(name) else _expected(name)
        shades = [] if wanted is None else [wanted, *_shades(wanted)]
        found.append(next((shade for shade in shades if shade not in found), None))
    for index, colour in enumerate(found):
        if colour is None:
            used = [other for other in found if other is not None]
            found[index] = _apart(_distinct(len(names)), used)
    return [[int(value) for value in colour or ()] for colour in found]


def _expected(name: str) -> tuple[int, int, int] | None:
    for words, colour in _EXPECTED:
        for word in re.findall(r'[a-z]+', name.lower()):
            if any(
                word.startswith(w) if len(w) > 3 else word in (w, w + 's') for w in words.split()
            ):
                return colour
    return None


def _shades(colour: Sequence[int]) -> list[tuple[int, ...]]:
    """Return two lighter and two darker shades of a colour."""
    return [
        tuple(round(value + (end - value) * share) for value in colour)
        for share in (0.4, 0.65)
        for end in (255, 0)
    ]


def _apart(colours: Sequence[Sequence[int]], used: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the first colour that is far from all used ones, else the farthest."""
    if not used:
        return colours[0]
    gaps = [min(float(np.linalg.norm(np.subtract(c, other))) for other in used) for c in colours]
    return next(
        (c for c, gap in zip(colours, gaps, strict=True) if gap >= _NEAR),
        colours[int(np.argmax(gaps))],
    )


def _distinct(count: int) -> list[list[int]]:
    """Return the colours of matplotlib's tab10 or tab20, or for more than 20 hues of the circle."""
    from matplotlib import colormaps

    if count <= 20:
        colours = colormaps['tab10'](range(10)) if count <= 10 else colormaps['tab20'](range(20))
    else:
        colours = colormaps['hsv'](np.arange(2 * count) / 2 / count)
    return [[round(255 * float(value)) for value in colour[:3]] for colour in colours]
