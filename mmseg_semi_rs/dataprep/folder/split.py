# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Division of a user's images into training and validation."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ...rasters.place import Place, overlapping
from ...rasters.windows import overlap, parse_tile_name
from ..splits.draw import check_scene_regex, group_by_scene

VAL_PERCENT = 20

_MIN_SCENES = 4  # with fewer, one scene is too large a share of the data to set aside
_MAX_PARTS = 6
_DRAWS = 100
_FOLDER_MARK = '|'  # replaces the / of sub-folders, whose names may identify scenes too
_RARE_SHARE, _RARE_IMAGES = 0.02, 3
_ENOUGH = (0.1, 0.5)  # wanted share of a class's pixels in validation
_UNEVEN = (0.5, 2.0)  # times the wanted share; outside, scenes on common ground are divided
_TOUCHING = 0.01  # share of a side: neighbours that overlap less only touch

_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class FolderSplit:
    """Disjoint lists of names.

    Attributes:
        train: Labelled images for training.
        val: Labelled images for validation.
        unlabelled: Unlabelled images for training.
        left_out: Images in no list, since they show places of the validation images.
        reason: How the images were divided.
        scenes: Number of scenes of the labelled training images.
    """

    train: list[str]
    val: list[str]
    unlabelled: list[str]
    left_out: list[str]
    reason: str
    scenes: int


def split_folder(
    presence: Mapping[str, Collection[int]],
    unlabelled: Sequence[str],
    seed: int = 0,
    scene_regex: str | None = None,
    places: Mapping[str, Place] | None = None,
) -> FolderSplit:
    """Draw validation images by scene, so that training and validation share no place if possible.

    Args:
        presence: Class ids in each labelled image or tile, by its name without suffix, with or
            without their numbers of pixels.
        unlabelled: Names of the other images.
        seed: The same seed gives the same lists.
        scene_regex: Searched for in a name whose folders are joined by ``|``, without the window of
            a tile; the scene is group 1, or the whole match. Defaults to the shortest leading parts
            of the names that are shared by several images and give at least four labelled scenes,
            or as many as there are labelled images if these are fewer.
        places: Georeferences of the images that have one, by name without suffix; for tiles, that
            of their image. Images on common ground form one scene. If scenes cannot be divided
            because nearly all overlap, one end of the ground is used for validation and what
            overlaps it is left out. If all images show one place, they are divided as if there were
            no georeference, which the reason mentions.

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
    named = group_by_scene(flat, pattern)
    parts = [parse_tile_name(name) for name in flat]
    if len({stem for stem, _ in parts}) == 1 and all(window for _, window in parts):
        return _at_one_end(list(presence), unlabelled, _windows([*presence, *unlabelled]))
    ground = {name.replace('/', _FOLDER_MARK): place for name, place in (places or {}).items()}
    scene_of, pairs = _scenes([*flat, *others], pattern, ground)
    if pairs:
        reason += f', but {pairs} pairs of images share ground, and such images are of one scene'
    scenes: dict[str, list[str]] = defaultdict(list)
    for name in flat:
        scenes[scene_of[name]].append(name)
    evaluated: set[str] = set()
    if len(scenes) > 1:
        shown = {name: Counter(presence[flat[name]]) for name in flat}
        evaluated = _draw_scenes(scenes, shown, random.Random(f'{seed}/folder'))
    sides: tuple[list[str], list[str]] = [], []
    for name, other in zip(unlabelled, others, strict=True):
        sides[scene_of[other] in evaluated].append(name)
    free, left_out = sides
    wanted = len(flat) * VAL_PERCENT / 100
    size = sum(len(scenes[scene]) for scene in evaluated)
    fits = _UNEVEN[0] * wanted <= size <= max(_UNEVEN[1] * wanted, 2)
    if pairs and not (fits and len(left_out) <= len(unlabelled) / 2):
        boxes = _grounds([*presence, *unlabelled], ground)
        if all(name in boxes for name in presence):
            end = _at_one_end(list(presence), unlabelled, boxes, on_ground=True)
            if end.train and (not fits or len(end.left_out) < len(left_out)):
                return replace(end, reason=f'{pairs} pairs of images share ground: {end.reason}')
    if not evaluated and pairs and len(named) > 1:
        split = split_folder(presence, unlabelled, seed, scene_regex)
        told = 'all images share ground, so that validation shows places that are trained on'
        return replace(split, reason=f'{told} and its figures are too good; {split.reason}')
    if not evaluated:
        raise ValueError(
            f'All {len(flat)} labelled images are of one scene by --scene-regex {pattern!r}'
            f'{" and the ground that they share" if pairs else ""}: correct it, or label another.'
        )
    return FolderSplit(
        sorted(flat[name] for name in flat if scene_of[name] not in evaluated),
        sorted(flat[name] for name in flat if scene_of[name] in evaluated),
        sorted(free),
        sorted(left_out),
        f'{reason}; {len(evaluated)} of {len(scenes)} are validated on',
        len(scenes) - len(evaluated),
    )


def split_folds(
    presence: Mapping[str, Collection[int]],
    unlabelled: Sequence[str],
    count: int,
    seed: int = 0,
    scene_regex: str | None = None,
    places: Mapping[str, Place] | None = None,
) -> list[FolderSplit]:
    """Divide the labelled images into folds, each of which is used for validation once.

    A scene belongs to one fold. Scenes are assigned, largest first, to the fold that has least of
    their classes, so that each class is spread over the folds as far as its scenes allow.

    Args:
        presence: See :func:`split_folder`, as for all but ``count``.
        unlabelled: Names of the other images.
        count: Number of folds.
        seed: The same seed gives the same folds.
        scene_regex: Pattern that finds the scene in a name.
        places: Georeferences of images.

    Raises:
        ValueError: There are fewer scenes than folds, or fewer than two folds.
    """
    flat = {name.replace('/', _FOLDER_MARK): name for name in presence}
    others = {name.replace('/', _FOLDER_MARK): name for name in unlabelled}
    pattern, reason = _pattern(list(flat), list(others), scene_regex)
    ground = {name.replace('/', _FOLDER_MARK): place for name, place in (places or {}).items()}
    scene_of, _ = _scenes([*flat, *others], pattern, ground)
    shown: dict[str, Counter[int]] = defaultdict(Counter)
    for name, original in flat.items():
        shown[scene_of[name]].update(Counter(presence[original]))
    if not 2 <= count <= len(shown):
        raise ValueError(
            f'--folds {count} does not divide the {len(shown)} labelled scenes: choose 2 to '
            f'{len(shown)}, or say by --scene-regex what a scene is.'
        )
    total = sum(shown.values(), Counter())
    order = random.Random(f'{seed}/folds').sample(sorted(shown), len(shown))
    order.sort(key=lambda scene: -sum(shown[scene].values()))
    filled: list[Counter[int]] = [Counter() for _ in range(count)]
    fold_of: dict[str, int] = {}
    for left, scene in zip(range(len(order), 0, -1), order, strict=True):
        empty = [k for k in range(count) if not filled[k]]
        choice = empty if len(empty) >= left else range(count)
        fold_of[scene] = min(
            choice,
            key=lambda k: sum(filled[k][c] * n / total[c] ** 2 for c, n in shown[scene].items()),
        )
        filled[fold_of[scene]].update(shown[scene])
    return [
        FolderSplit(
            sorted(flat[name] for name in flat if fold_of[scene_of[name]] != fold),
            sorted(flat[name] for name in flat if fold_of[scene_of[name]] == fold),
            sorted(others[name] for name in others if fold_of.get(scene_of[name]) != fold),
            sorted(others[name] for name in others if fold_of.get(scene_of[name]) == fold),
            f'{reason}; fold {fold + 1} of {count} is validated on',
            sum(other != fold for other in fold_of.values()),
        )
        for fold in range(count)
    ]


def rare_classes(
    presence: Mapping[str, Mapping[int, int]], names: Sequence[str]
) -> dict[int, tuple[float, int]]:
    """Find classes with few pixels in a few images, which are worth sampling more often.

    Classes in only one or two images do not count: these images would be memorised.

    Args:
        presence: Number of pixels of each class id in each labelled image.
        names: Names of the training images.

    Returns:
        Share of all labelled pixels, in [0, 1], and number of images, by class id.
    """
    total = sum((Counter(presence[name]) for name in names), Counter())
    images = Counter(k for name in names for k, pixels in presence[name].items() if pixels)
    shares = {k: pixels / sum(total.values()) for k, pixels in sorted(total.items())}
    return {
        k: (share, images[k])
        for k, share in shares.items()
        if share < _RARE_SHARE and _RARE_IMAGES <= images[k] < len(names) / 2
    }


def _scenes(
    names: Sequence[str], pattern: str, ground: Mapping[str, Place]
) -> tuple[dict[str, str], int]:
    """Find the scene of each name, where images on common ground share one; and count such pairs.

    Args:
        names: Names without folders; one in which the pattern does not occur is its own scene.
        pattern: Finds the scene in a name.
        ground: Georeference by name, or by the stem of a tile's image.
    """
    unnamed = {name for name in names if not re.search(pattern, parse_tile_name(name)[0])}
    by_scene = group_by_scene(set(names) - unnamed, pattern)
    own = {name: name for name in unnamed}
    own |= {name: scene for scene, members in by_scene.items() for name in members}
    owner: dict[str, str] = {}  # scene of each place
    for name, scene in own.items():
        stem = name if name in ground else parse_tile_name(name)[0]
        if stem in ground:
            owner[stem] = scene
    first: dict[str, str] = {}

    def find(scene: str) -> str:
        while scene in first:
            scene = first[scene]
        return scene

    stems = sorted(owner)
    pairs = 0
    for one, other in overlapping([ground[stem] for stem in stems]):
        pairs += 1
        roots = sorted({find(owner[stems[one]]), find(owner[stems[other]])})
        if len(roots) == 2:
            first[roots[1]] = roots[0]
    return {name: find(scene) for name, scene in own.items()}, pairs


def _draw_scenes(
    scenes: Mapping[str, Sequence[str]],
    shown: Mapping[str, Counter[int]],
    rng: random.Random,
) -> set[str]:
    """Choose the scenes for validation from the best of many draws.

    The best draw has most classes on both sides, then enough pixels of most classes, and then a
    size closest to the wanted share. After its first scene, a draw adds scenes up to half of all
    images.
    """
    pixels = {key: sum((shown[name] for name in names), Counter()) for key, names in scenes.items()}
    total = sum(pixels.values(), Counter())
    images = sum(map(len, scenes.values()))
    wanted = images * VAL_PERCENT / 100
    best: tuple[tuple[int, int, float], set[str]] | None = None
    for _ in range(_DRAWS):
        order = rng.sample(sorted(scenes), len(scenes))
        drawn, taken = [order[0]], len(scenes[order[0]])
        for key in order[1:-1]:
            if taken < wanted and taken + len(scenes[key]) <= images / 2:
                drawn.append(key)
                taken += len(scenes[key])
        inside = sum((pixels[key] for key in drawn), Counter())
        both = len(inside) + len(total - inside)
        enough = sum(_ENOUGH[0] <= inside[k] / total[k] <= _ENOUGH[1] for k in total if total[k])
        score = (both, enough, -abs(taken - wanted))
        if best is None or score > best[0]:
            best = score, set(drawn)
    assert best is not None
    return best[1]


def _pattern(
    names: Sequence[str], unlabelled: Sequence[str], wanted: str | None
) -> tuple[str, str]:
    """Return a pattern that finds the scene in a name, and the reason for it."""
    if wanted is not None:
        return check_scene_regex(wanted), f'scenes are what {wanted!r} finds in the names'
    stems = {parse_tile_name(name)[0] for name in names}
    every = stems | {parse_tile_name(name)[0] for name in unlabelled}
    for parts in range(1, _MAX_PARTS + 1):
        pattern = rf'^(?:[^-_. |]+[-_. |]+){{{parts - 1}}}[^-_. |]+(?=[-_. |])'
        scene_of = {stem: match[0] for stem in every if (match := re.search(pattern, stem))}
        scenes = {scene_of[stem] for stem in stems & set(scene_of)}
        few = min(_MIN_SCENES, len(stems))
        shared = len(set(scene_of.values())) < len(scene_of)
        if stems <= set(scene_of) and len(scenes) >= few and shared:
            return pattern, f'scenes are the names up to part {parts}, e.g. {min(scenes)!r}'
    what = 'image' if len(stems) == len(names) else 'image that tiles were cut from'
    return '.+', f'each {what} is a scene of its own'


def _windows(names: Sequence[str]) -> dict[str, _Box]:
    """Return the windows of all tiles that were cut from the same image as the first."""
    parts = {name: parse_tile_name(name.replace('/', _FOLDER_MARK)) for name in names}
    image = parts[names[0]][0]
    return {n: window for n, (stem, window) in parts.items() if window and stem == image}


def _grounds(names: Sequence[str], ground: Mapping[str, Place]) -> dict[str, _Box]:
    """Return the bounds of images or tiles in the CRS of the first place that has one."""
    crs = next((place.crs for place in ground.values() if place.crs), None)
    boxes: dict[str, _Box] = {}
    for name in names:
        flat = name.replace('/', _FOLDER_MARK)
        place = ground.get(flat)
        if place is None:
            stem, window = parse_tile_name(flat)
            if stem not in ground or window is None:
                continue
            place = ground[stem].part(*window)
        corners = place.corners(crs)
        low, high = corners.min(0), corners.max(0)
        edge = (high - low) * _TOUCHING / 2
        boxes[name] = (*map(float, low + edge), *map(float, high - edge))  # type: ignore[assignment]
    return boxes


def _at_one_end(
    labelled: Sequence[str],
    unlabelled: Sequence[str],
    boxes: Mapping[str, _Box],
    on_ground: bool = False,
) -> FolderSplit:
    """Use the last fifth of contiguous ground for validation, and leave out what overlaps it.

    Args:
        labelled: Names, all of which have a box.
        unlabelled: Names; those without a box lie elsewhere.
        boxes: Left, upper, right and lower bound of each name.
        on_ground: Whether bounds are coordinates, with y growing to the north; then it is no error
            if no training images are left.
    """
    own = [boxes[name] for name in labelled]
    extent = [max(b[k + 2] for b in own) - min(b[k] for b in own) for k in (0, 1)]
    axis = int(extent[0] < extent[1])
    starts = sorted(box[axis] for box in own)
    limit = starts[min(len(starts) - 1, len(starts) * (100 - VAL_PERCENT) // 100)]
    if limit == starts[0]:  # a single row of tiles is divided along the other axis
        axis = 1 - axis
        starts = sorted(box[axis] for box in own)
        limit = starts[min(len(starts) - 1, len(starts) * (100 - VAL_PERCENT) // 100)]
    val = [name for name in labelled if boxes[name][axis] >= limit]

    def apart(name: str) -> bool:
        return name not in boxes or not any(overlap(boxes[name], boxes[other]) for other in val)

    rest = [name for name in labelled if name not in val]
    train = [name for name in rest if apart(name)]
    free = [name for name in unlabelled if apart(name)]
    if not train and not on_ground:
        raise ValueError(
            f'{len(labelled)} tiles of one image cannot be divided into training and validation '
            'without overlap: choose a smaller --tile.'
        )
    ends = ('eastern', 'northern') if on_ground else ('right', 'lower')
    what = 'their' if on_ground else 'one image has labels: its'
    return FolderSplit(
        sorted(train),
        sorted(val),
        sorted(free),
        sorted({*rest, *unlabelled} - {*train, *free}),
        f'{what} {ends[axis]} end is validated on',
        1,
    )
