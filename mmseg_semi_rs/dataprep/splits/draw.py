# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Drawing of labelled, unlabelled, validation and test tiles by pure functions, without files.

A *scene* is the image that tiles were cut from. Tiles of one scene look alike, so a split of single
tiles tests a model on places that it was trained on: with random tiles, all 38 Potsdam tiles and
nearly all DeepGlobe images are on both sides. Here whole scenes go to training, validation or test,
unless a published protocol is requested.

Labelled sets are prefixes of one order of the training tiles, and hence nested.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from ...classes import METAINFO
from ...rasters.windows import Window, overlap, parse_tile_name

RATIOS = ('1-4', '1-8', '1-16', '1-32', '1pct', '5pct', '10pct')
SHARES = (60, 20, 20)
SCENE_REGEX = {
    'potsdam': r'(\d+_\d+)',
    'loveda': r'(\d+)',
    'deepglobe': r'(\d+)',
    'whdld': r'.+',  # numbers do not tell neighbours, so every tile is a scene
    'gid15': r'.+',
    # NASA's names give the place as site and drive, 4 characters; both rovers number alike
    'mer': r'^(?:[12][A-Z]\d{9}[A-Z]{3}(.{4})[A-Z]\d{4}|.+)',
    'msl': r'.+',
}
# Ids on disk that a labelled set should contain; ignored and unknown ones are left out.
CLASS_IDS = {
    'potsdam': dict(
        enumerate(('impervious_surface', 'building', 'low_vegetation', 'tree', 'car', 'clutter'), 1)
    ),
    'loveda': dict(
        enumerate(
            ('background', 'building', 'road', 'water', 'barren', 'forest', 'agricultural'), 1
        )
    ),
    'deepglobe': dict(
        enumerate(('urban', 'agriculture', 'rangeland', 'forest', 'water', 'barren'))
    ),
    'whdld': dict(enumerate(METAINFO['whdld']['classes'], 1)),
    'gid15': dict(enumerate(METAINFO['gid15']['classes'])),
    'mer': dict(enumerate(METAINFO['mer']['classes'])),
    'msl': dict(enumerate(METAINFO['msl']['classes'])),
}


@dataclass(frozen=True)
class TileProtocol:
    """A published division of single tiles, with the same list for validation and test.

    Attributes:
        tiles: Published number of tiles.
        percent: Training share in percent, rounded down to whole tiles.
        ratios: Published labelled shares.
    """

    tiles: int
    percent: int
    ratios: tuple[str, ...]


# Co2S (arXiv 2512.23035)
CO2S = {
    'whdld': TileProtocol(4940, 90, ('1-32', '1-24', '1-16', '1-8', '1-4')),
    'loveda': TileProtocol(4191, 90, ('1-40', '1-24', '1-16', '1-8', '1-4')),
    'potsdam': TileProtocol(5472, 90, ('1-32', '1-24', '1-16', '1-8', '1-4')),
    'gid15': TileProtocol(3420, 80, ('1-8', '1-4')),
    'mer': TileProtocol(1064, 80, ('1-8', '1-4')),
    'msl': TileProtocol(3927, 80, ('1-8', '1-4')),
}

# A labelled set of fewer whole scenes than this does not represent the data. Then tiles are drawn
# from all training scenes instead (validation and test have other scenes in either case).
MIN_LABELLED_SCENES = 8
MAX_DRAWS = 1000

Unit = Literal['scene', 'tile']
# Ids in each tile's label, by the tile's name.
Presence = Mapping[str, Collection[int]]


@dataclass(frozen=True)
class Partition:
    """Disjoint lists of tile names.

    Attributes:
        train: Labelled and unlabelled training tiles; the order has no meaning.
        val: Validation tiles.
        test: Test tiles. May equal ``val`` if a protocol has only one list.
        attempt: Number of draws that were discarded because a class was missing.
    """

    train: list[str]
    val: list[str]
    test: list[str]
    attempt: int = 0


@dataclass(frozen=True)
class LabelledOrder:
    """Training tiles in the order in which they become labelled.

    Attributes:
        order: All training tiles; a labelled set is a prefix.
        unit: Unit of the draw.
        reason: Reason for this unit, as a sentence.
        attempt: Number of draws that were discarded because a class was missing.
        missing: Ids that the smallest labelled set still lacks.
    """

    order: list[str]
    unit: Unit | Literal['any']
    reason: str
    attempt: int = 0
    missing: list[int] = field(default_factory=list)


def parse_ratio(text: str) -> Fraction:
    """Parse the name of a labelled share.

    Examples:
        >>> parse_ratio('1-16'), parse_ratio('5pct')
        (Fraction(1, 16), Fraction(1, 20))

    Raises:
        ValueError: The text is not ``<n>-<m>`` or ``<p>pct``, above 0 and at most 1.
    """
    match = re.fullmatch(r'(\d+)-(\d+)|(\d+(?:\.\d+)?)pct', text)
    if match is not None:
        part, whole, percent = match.groups()
        if percent is not None:
            ratio = Fraction(percent) / 100
        else:
            ratio = Fraction(int(part), int(whole)) if int(whole) else Fraction(0)
        if 0 < ratio <= 1:
            return ratio
    raise ValueError(
        f'The ratio {text!r} is no share between 0 and 1: write one eighth as 1-8, five percent as '
        '5pct.'
    )


def labelled_count(tiles: int, ratio: Fraction) -> int:
    """Return the number of labelled tiles, rounded down as in published lists, at least one."""
    return max(1, tiles * ratio.numerator // ratio.denominator)


def check_scene_regex(pattern: str) -> str:
    """Return the pattern if it is a valid regular expression, else raise a ValueError."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f'--scene-regex {pattern!r} is no regular expression ({error}).'
        ) from error
    return pattern


def scene_of(name: str, pattern: str) -> str:
    """Return the scene of a tile: group 1 of a pattern (or the whole match) in the tile's stem.

    The stem is the name without folder and without the coordinates of the window: in
    ``train/2_10_0_512_512_1024`` the pattern is searched for in ``2_10``.

    Raises:
        ValueError: The pattern does not occur.
    """
    stem, _ = parse_tile_name(name)
    match = re.search(pattern, stem)
    if match is None:
        raise ValueError(
            f'The scene pattern {pattern!r} does not occur in {stem!r} (tile {name}): correct '
            '--scene-regex.'
        )
    return (match.re.groups and match[1]) or match[0]


def group_by_scene(names: Iterable[str], pattern: str) -> dict[str, list[str]]:
    """Group tiles by scene; both are sorted."""
    scenes: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        scenes[scene_of(name, pattern)].append(name)
    return dict(sorted(scenes.items()))


def _rng(seed: int, purpose: str, attempt: int) -> random.Random:
    # Random hashes a text seed itself, identically on every Python version
    return random.Random(f'{seed}/{purpose}/{attempt}')


def _ids_of(names: Iterable[str], presence: Presence) -> set[int]:
    return {class_id for name in names for class_id in presence.get(name, ())}


def missing_ids(names: Iterable[str], presence: Presence, wanted: Collection[int]) -> list[int]:
    """Return the ids in ``wanted`` that no tile of ``names`` contains."""
    return sorted(set(wanted) - _ids_of(names, presence))


def _first_covering(
    draw: Callable[[int], list[list[str]]],
    covered: Callable[[list[list[str]]], int],
    wanted: int,
) -> tuple[list[list[str]], int]:
    """Return the first draw that covers all, else the first of the best, and its number."""
    best: tuple[int, list[list[str]], int] | None = None
    for attempt in range(MAX_DRAWS):
        drawn = draw(attempt)
        score = covered(drawn)
        if best is None or score > best[0]:
            best = (score, drawn, attempt)
        if score >= wanted:
            break
    assert best is not None
    return best[1], best[2]


def draw_partition(
    names: Sequence[str],
    scene_regex: str,
    seed: int = 0,
    shares: Sequence[int] = SHARES,
    unit: Unit = 'scene',
    presence: Presence | None = None,
    wanted: Collection[int] = (),
) -> Partition:
    """Divide tiles at random into training, validation and test.

    Args:
        names: Labelled tiles.
        scene_regex: See :func:`scene_of`.
        seed: The same seed gives the same partition, whatever the order of ``names``.
        shares: Relative sizes of the three parts; a part of 0 stays empty.
        unit: ``'scene'`` keeps the tiles of a scene together, ``'tile'`` does not.
        presence: Ids in each tile. A draw without one of ``wanted`` in some part is repeated, at
            most 1000 times.
        wanted: Ids that every part should contain.

    Raises:
        ValueError: There are fewer scenes (or tiles) than parts.
    """
    check_shares(shares)
    scenes = group_by_scene(names, scene_regex)
    units = list(scenes.values()) if unit == 'scene' else [[name] for name in sorted(names)]
    used = [share for share in shares if share]
    if len(units) < len(used):
        raise ValueError(
            f'{len(units)} {unit}s cannot be divided into {len(used)} parts: convert more of the '
            'data set, set a share of --shares to 0, or divide by tile (--preset tile).'
        )
    sizes = _part_sizes(len(units), shares, round_down=unit == 'tile')

    def draw(attempt: int) -> list[list[str]]:
        shuffled = list(units)
        _rng(seed, 'partition', attempt).shuffle(shuffled)
        ends = (sizes[0], sizes[0] + sizes[1], len(shuffled))
        blocks = (shuffled[: ends[0]], shuffled[ends[0] : ends[1]], shuffled[ends[1] :])
        return [[name for part in block for name in part] for block in blocks]

    def covered(parts: list[list[str]]) -> int:
        if presence is None:
            return 0
        return sum(len(set(wanted) & _ids_of(part, presence)) for part in parts if part)

    target = len(set(wanted)) * len(used) if presence is not None else 0
    (train, val, test), attempt = _first_covering(draw, covered, target)
    return Partition(sorted(train), sorted(val), sorted(test), attempt)


def check_shares(shares: Sequence[int]) -> None:
    """Check the shares of training, validation and test.

    Raises:
        ValueError: They are not three non-negative numbers, the first above 0.
    """
    if len(shares) != 3 or min(shares) < 0 or shares[0] == 0:
        raise ValueError(
            f'Shares of train, val and test are three numbers, the first above 0, not '
            f'{tuple(shares)}.'
        )


def _part_sizes(units: int, shares: Sequence[int], round_down: bool) -> list[int]:
    """Return the sizes of the three parts, in units; every part with a share gets at least one."""
    total = sum(shares)
    if round_down:  # as in the published tile-wise splits: int(.6 N), int(.2 N), the rest
        sizes = [units * share // total for share in shares[:2]]
        sizes.append(units - sum(sizes))
        if not shares[2]:
            sizes[0], sizes[2] = sizes[0] + sizes[2], 0
    else:  # largest remainders
        exact = [Fraction(units * share, total) for share in shares]
        sizes = [int(value) for value in exact]
        by_remainder = sorted(range(3), key=lambda k: (sizes[k] - exact[k], k))
        for k in by_remainder[: units - sum(sizes)]:
            sizes[k] += 1
    for k, share in enumerate(shares):
        if share and not sizes[k]:
            sizes[k] = 1
            sizes[sizes.index(max(sizes))] -= 1
    return sizes


def order_labelled(
    train: Sequence[str],
    scene_regex: str,
    ratios: Sequence[Fraction],
    seed: int = 0,
    unit: Unit | Literal['auto', 'any'] = 'auto',
    presence: Presence | None = None,
    wanted: Collection[int] = (),
) -> LabelledOrder:
    """Order training tiles by when they become labelled.

    Args:
        train: Training tiles with labels.
        scene_regex: See :func:`scene_of`.
        ratios: Labelled shares; the smallest decides ``'auto'`` and must cover the classes.
        seed: The same seed gives the same order.
        unit: ``'scene'`` labels one scene after the other, as an annotator would; ``'tile'`` takes
            one tile of every scene in turn; ``'any'`` shuffles tiles whatever their scene, as
            published protocols do. ``'auto'`` chooses ``'scene'`` if the smallest labelled set then
            has at least eight scenes and scenes have more than one tile, else ``'tile'``.
        presence: Ids in each tile, see :func:`draw_partition`.
        wanted: Ids that the smallest labelled set should contain.

    Raises:
        ValueError: There are no training tiles.
    """
    if not train:
        raise ValueError('There are no labelled training tiles: check --data-root and --preset.')
    scenes = group_by_scene(train, scene_regex)
    smallest = min(ratios)
    count = labelled_count(len(train), smallest)
    in_scenes = float(len(scenes) * smallest)
    chosen, reason = _choose_unit(unit, in_scenes, len(scenes), len(train))

    def draw(attempt: int) -> list[list[str]]:
        rng = _rng(seed, 'labelled', attempt)
        if chosen == 'any':
            return [rng.sample(sorted(train), len(train))]
        keys = list(scenes)
        rng.shuffle(keys)
        tiles = {key: rng.sample(scenes[key], len(scenes[key])) for key in keys}
        if chosen == 'scene':
            return [[name for key in keys for name in tiles[key]]]
        longest = max(map(len, tiles.values()))
        return [[tiles[k][row] for row in range(longest) for k in keys if row < len(tiles[k])]]

    def covered(drawn: list[list[str]]) -> int:
        if presence is None:
            return 0
        return len(set(wanted) & _ids_of(drawn[0][:count], presence))

    target = len(set(wanted)) if presence is not None else 0
    (order,), attempt = _first_covering(draw, covered, target)
    missing = [] if presence is None else missing_ids(order[:count], presence, wanted)
    return LabelledOrder(order, chosen, reason, attempt, missing)


def _choose_unit(
    unit: Unit | Literal['auto', 'any'], in_scenes: float, scenes: int, tiles: int
) -> tuple[Unit | Literal['any'], str]:
    if unit == 'any':
        return unit, 'the protocol draws single tiles'
    if unit != 'auto':
        return unit, 'as asked for'
    if scenes == tiles:
        return 'tile', 'every scene is one tile'
    if in_scenes >= MIN_LABELLED_SCENES:
        return 'scene', f'the smallest labelled set is {in_scenes:.1f} of {scenes} training scenes'
    return 'tile', (
        f'the smallest labelled set would be {in_scenes:.1f} of {scenes} training scenes, fewer '
        f'than {MIN_LABELLED_SCENES}; its tiles are spread over all of them instead'
    )


def semiearth_partition(tiles: int) -> Partition:
    """Return the Potsdam partition of SemiEarth's release, as running numbers 1..``tiles``.

    The numbers are sorted as text, shuffled by Python's ``random`` with seed 42 and cut at 60 and
    80 percent; a labelled set is the first ``int(p * 3283)`` of ``train``, whose order matters.
    """
    numbers = sorted(str(number) for number in range(1, tiles + 1))
    random.Random(42).shuffle(numbers)
    first = int(0.6 * tiles)
    second = first + int(0.2 * tiles)
    return Partition(numbers[:first], numbers[first:second], numbers[second:])


def labelled_sets(
    order: Sequence[str], ratios: Mapping[str, Fraction], extra: Sequence[str] = ()
) -> dict[str, tuple[list[str], list[str]]]:
    """Return the labelled and unlabelled names of each ratio.

    Args:
        order: Training tiles, see :class:`LabelledOrder`.
        ratios: Labelled shares by name.
        extra: Training tiles without labels, which are added to every unlabelled list.
    """
    sets = {}
    for name, ratio in ratios.items():
        count = labelled_count(len(order), ratio)
        sets[name] = (list(order[:count]), [*order[count:], *extra])
    return sets


@dataclass(frozen=True)
class Leak:
    """Overlap of an evaluation list with training, as shares of its tiles in [0, 1].

    Attributes:
        scene_in_training: Tiles whose scene has training tiles.
        pixels_in_training: Tiles that overlap a training tile; None if names have no windows.
        scene_labelled: Tiles whose scene has labelled tiles, by ratio.
    """

    scene_in_training: float
    pixels_in_training: float | None
    scene_labelled: dict[str, float]


def leak_report(
    train: Sequence[str],
    labelled: Mapping[str, Sequence[str]],
    evaluation: Sequence[str],
    scene_regex: str,
) -> Leak:
    """Measure how much an evaluation list shares with training.

    Args:
        train: All training tiles, labelled or not.
        labelled: Labelled tiles by ratio.
        evaluation: Tiles of the evaluation list.
        scene_regex: See :func:`scene_of`.
    """
    total = max(1, len(evaluation))
    scenes = {name: scene_of(name, scene_regex) for name in evaluation}

    def share(names: Iterable[str]) -> float:
        known = {scene_of(name, scene_regex) for name in names}
        return sum(scene in known for scene in scenes.values()) / total

    trained: dict[str, list[Window]] = defaultdict(list)
    for name in train:
        window = parse_tile_name(name)[1]
        if window is not None:
            trained[scene_of(name, scene_regex)].append(window)
    overlaps: list[bool] = []
    for name, scene in scenes.items():
        window = parse_tile_name(name)[1]
        if window is not None:
            overlaps.append(any(overlap(window, other) for other in trained.get(scene, ())))
    return Leak(
        share(train),
        sum(overlaps) / total if len(overlaps) == len(evaluation) else None,
        {ratio: share(names) for ratio, names in labelled.items()},
    )
