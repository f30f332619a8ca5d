# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Which of somebody's images are trained on and which are validated on."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ...rasters.windows import Window, parse_tile_name
from ..splits.draw import group_by_scene

VAL_PERCENT = 20

_MIN_SCENES = 4  # with fewer, one scene is too much of the data to be set aside
_MAX_PARTS = 6
_DRAWS = 100
_FOLDER_MARK = '|'  # stands for the / of sub-folders, which may tell scenes too


@dataclass(frozen=True)
class FolderSplit:
    """Disjoint lists of names.

    Attributes:
        train: Labelled, trained on.
        val: Labelled, validated on.
        unlabelled: Trained on without labels.
        left_out: In no list: they show places that are validated on.
        reason: How it was divided.
        scenes: Number of scenes that the labelled training images are of.
    """

    train: list[str]
    val: list[str]
    unlabelled: list[str]
    left_out: list[str]
    reason: str
    scenes: int


def divide(
    presence: Mapping[str, Collection[int]],
    unlabelled: Sequence[str],
    seed: int = 0,
    scene_regex: str | None = None,
) -> FolderSplit:
    """Draw validation images by scene, so that no place is on both sides where it can be avoided.

    Args:
        presence: Class ids that each labelled image or tile shows, by its name without suffix.
        unlabelled: Names of the others.
        seed: Same seed, same lists.
        scene_regex: Searched in a name whose folders are joined by ``|``, without a tile's window;
            group 1, or all that matched, is the scene. Defaults to the first parts of the names
            that several images share and that divide the labelled ones into four scenes or more,
            or into as many as there are images.

    Raises:
        ValueError: There are fewer than two labelled images, or the pattern is wrong.
    """
    if len(presence) < 2:
        raise ValueError(
            f'{len(presence)} image{"" if len(presence) == 1 else "s"} with labels cannot be '
            'divided into training and validation: draw another mask, or cut the image into tiles '
            'by --tile 256.'
        )
    flat = {name.replace('/', _FOLDER_MARK): name for name in presence}
    others = [name.replace('/', _FOLDER_MARK) for name in unlabelled]
    pattern, reason = _pattern(list(flat), others, scene_regex)
    scenes = group_by_scene(flat, pattern)
    parts = [parse_tile_name(name) for name in flat]
    if len({stem for stem, _ in parts}) == 1 and all(window for _, window in parts):
        return _beside(list(presence), unlabelled)
    if len(scenes) == 1:
        raise ValueError(
            f'All {len(flat)} labelled images are of one scene by --scene-regex {pattern!r}: '
            'correct it.'
        )
    evaluated = _draw_scenes(
        scenes, {name: presence[flat[name]] for name in flat}, random.Random(f'{seed}/folder')
    )
    free: list[str] = []
    seen: list[str] = []
    for name, other in zip(unlabelled, others, strict=True):
        known = re.search(pattern, parse_tile_name(other)[0])
        scene = None if known is None else (known.re.groups and known[1]) or known[0]
        (seen if scene in evaluated else free).append(name)
    sides: tuple[list[str], list[str]] = [], []
    for scene, names in scenes.items():
        sides[scene in evaluated].extend(flat[name] for name in names)
    return FolderSplit(
        sorted(sides[0]),
        sorted(sides[1]),
        sorted(free),
        sorted(seen),
        f'{reason}; {len(evaluated)} of {len(scenes)} are validated on',
        len(scenes) - len(evaluated),
    )


def _draw_scenes(
    scenes: Mapping[str, Sequence[str]],
    presence: Mapping[str, Collection[int]],
    rng: random.Random,
) -> set[str]:
    """Scenes for validation, of the best of many draws.

    Best is what shows most classes on both sides, and then comes nearest to the wanted share.
    """
    ids = {key: {k for name in names for k in presence[name]} for key, names in scenes.items()}
    wanted = sum(map(len, scenes.values())) * VAL_PERCENT / 100
    best: tuple[tuple[int, float], set[str]] | None = None
    for _ in range(_DRAWS):
        order = rng.sample(sorted(scenes), len(scenes))
        drawn: list[str] = []
        for key in order[:-1]:
            taken = sum(len(scenes[each]) for each in drawn)
            if not drawn or abs(taken + len(scenes[key]) - wanted) < abs(taken - wanted):
                drawn.append(key)
        rest = [key for key in order if key not in drawn]
        shown = sum(len(set().union(*(ids[key] for key in side))) for side in (drawn, rest))
        size = sum(len(scenes[key]) for key in drawn)
        score = (shown, -abs(size - wanted))
        if best is None or score > best[0]:
            best = score, set(drawn)
    assert best is not None
    return best[1]


def _pattern(
    names: Sequence[str], unlabelled: Sequence[str], wanted: str | None
) -> tuple[str, str]:
    """A pattern that finds the scene in a name, and why."""
    if wanted is not None:
        try:
            re.compile(wanted)
        except re.error as error:
            raise ValueError(
                f'--scene-regex {wanted!r} is no regular expression ({error}).'
            ) from error
        return wanted, f'scenes are what {wanted!r} finds in the names'
    stems = {parse_tile_name(name)[0] for name in names}
    every = stems | {parse_tile_name(name)[0] for name in unlabelled}
    for parts in range(1, _MAX_PARTS + 1):
        pattern = rf'^(?:[^-_. |]+[-_. |]+){{{parts - 1}}}[^-_. |]+(?=[-_. |])'
        found = {stem: match[0] for stem in every if (match := re.search(pattern, stem))}
        scenes = {found[stem] for stem in stems & set(found)}
        few = min(_MIN_SCENES, len(stems))
        if stems <= set(found) and len(scenes) >= few and len(set(found.values())) < len(found):
            return pattern, f'scenes are the names up to part {parts}, e.g. {min(scenes)!r}'
    what = 'image' if len(stems) == len(names) else 'image that tiles were cut from'
    return '.+', f'each {what} is a scene of its own'


def _beside(labelled: Sequence[str], unlabelled: Sequence[str]) -> FolderSplit:
    """Divide the tiles of one image: its last fifth is validated on, what overlaps it left out."""
    windows = {name: _window(name) for name in labelled}
    across = max(w.x1 for w in windows.values()) >= max(w.y1 for w in windows.values())
    starts = sorted(w.x0 if across else w.y0 for w in (windows[name] for name in labelled))
    limit = starts[min(len(starts) - 1, len(starts) * (100 - VAL_PERCENT) // 100)]
    if limit == starts[0]:  # one row of tiles: divided along the other axis
        across = not across
        starts = sorted(w.x0 if across else w.y0 for w in (windows[name] for name in labelled))
        limit = starts[min(len(starts) - 1, len(starts) * (100 - VAL_PERCENT) // 100)]
    val = [n for n in labelled if (windows[n].x0 if across else windows[n].y0) >= limit]

    image = _image(labelled[0])

    def apart(name: str) -> bool:
        if _image(name) != image:
            return True
        return not any(_overlap(_window(name), windows[other]) for other in val)

    rest = [name for name in labelled if name not in val]
    train = [name for name in rest if apart(name)]
    free = [name for name in unlabelled if apart(name)]
    if not train:
        raise ValueError(
            f'{len(labelled)} tiles of one image cannot be divided into training and validation '
            'without overlap: choose a smaller --tile.'
        )
    return FolderSplit(
        sorted(train),
        sorted(val),
        sorted(free),
        sorted({*rest, *unlabelled} - {*train, *free}),
        f'one image has labels: its {"right" if across else "lower"} end is validated on',
        1,
    )


def _image(name: str) -> tuple[str, bool]:
    """Which image a tile was cut from, and whether it was cut at all."""
    stem, window = parse_tile_name(name.replace('/', _FOLDER_MARK))
    return stem, window is not None


def _window(name: str) -> Window:
    window = parse_tile_name(name)[1]
    assert window is not None, name
    return window


def _overlap(first: Window, second: Window) -> bool:
    return (
        first.x0 < second.x1
        and second.x0 < first.x1
        and first.y0 < second.y1
        and second.y0 < first.y1
    )
