# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Drawing or import of a split for ``tools/make_splits.py``, with checks."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ...utils.files import read_text
from . import draw, files, release_lists

PRESETS = ('scene', 'tile', 'official', 'dwl', 'semiearth', 'co2s')
Sets = dict[str, tuple[list[str], list[str]]]


@dataclass
class SplitOptions:
    """Options of a split; ``tools/make_splits.py --help`` explains each."""

    dataset: str
    data_root: Path
    preset: str = 'scene'
    ratios: Sequence[str] | None = None
    seed: int = 0
    shares: Sequence[int] = draw.SHARES
    scene_regex: str | None = None
    labelled_by: Literal['auto', 'scene', 'tile'] = 'auto'
    extra_unlabelled: bool = False
    import_list: Sequence[str] = ()
    tile_order: release_lists.TileOrder = 'natural'
    ignore_ids: Sequence[int] = (255,)
    no_coverage: bool = False


@dataclass
class Split:
    """Lists of a split, how they were made, and warnings for the user.

    Attributes:
        train: Training tiles, labelled or not.
        val: Validation tiles.
        test: Test tiles.
        sets: Labelled and unlabelled tiles by ratio.
        recipe: Description for the manifest.
        warnings: Sentences for the user.
    """

    train: list[str]
    val: list[str]
    test: list[str]
    sets: Sets
    recipe: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def lists(self) -> dict[str, list[str]]:
        """Lists to write, by path below the split's folder."""
        lists = {'train': self.train, 'val': self.val, 'test': self.test}
        for ratio, (labelled, unlabelled) in self.sets.items():
            lists[f'{ratio}/labeled'] = labelled
            lists[f'{ratio}/unlabeled'] = unlabelled
        return {path: names for path, names in lists.items() if names}


def make_split(options: SplitOptions, tiles: files.Tiles, progress: bool = True) -> Split:
    """Draw or import a split, check it and measure its leaks.

    Args:
        options: Options of the split.
        tiles: The converted tiles.
        progress: Whether to show a progress bar while labels are read.

    Raises:
        ValueError: The split cannot be made from these tiles, or imported lists are inconsistent.
        FileNotFoundError: A list to be imported does not exist.
    """
    maker = _SplitMaker(options, tiles, progress)
    split = maker.imported() if options.import_list else maker.draw()
    maker.finish(split)
    return split


class _SplitMaker:
    def __init__(self, options: SplitOptions, tiles: files.Tiles, progress: bool) -> None:
        self.options = options
        self.tiles = tiles
        scene_regex = options.scene_regex or draw.SCENE_REGEX.get(options.dataset)
        if scene_regex is None:
            raise ValueError(
                f'It is not known how the names of {options.dataset!r} tell the scene of a tile: '
                "give --scene-regex, e.g. '^(\\w+?)_' (or '.+' if every image is a scene)."
            )
        self.scene_regex = draw.check_scene_regex(scene_regex)
        self.progress = progress
        draw.check_shares(options.shares)
        self.protocol = draw.CO2S.get(options.dataset) if options.preset == 'co2s' else None
        published = self.protocol.ratios if self.protocol else draw.RATIOS
        self.ratios: dict[str, Fraction] = {
            name: draw.parse_ratio(name) for name in options.ratios or published
        }

    @functools.cached_property
    def presence(self) -> dict[str, frozenset[int]] | None:
        """Ids in each labelled tile, read on first access, which takes a while."""
        if self.options.no_coverage:
            return None
        return files.scan_labels(self.tiles.labels, progress=self.progress)

    @functools.cached_property
    def class_names(self) -> dict[int, str]:
        """Names of the ids that every list should contain."""
        known = draw.CLASS_IDS.get(self.options.dataset)
        if known is not None:
            return known
        seen = {class_id for ids in (self.presence or {}).values() for class_id in ids}
        return {
            class_id: f'id {class_id}' for class_id in sorted(seen - set(self.options.ignore_ids))
        }

    def wanted(self, names: Sequence[str]) -> list[int]:
        """Return the classes that occur in ``names`` and so can be required."""
        if self.presence is None:
            return []
        absent = draw.missing_ids(names, self.presence, self.class_names)
        return [class_id for class_id in self.class_names if class_id not in absent]

    def in_folder(self, folder: str) -> list[str]:
        """Return the labelled tiles of one folder below ``img_dir``.

        Raises:
            ValueError: There are none.
        """
        names = [name for name in self.tiles.labelled if name.startswith(f'{folder}/')]
        if not names:
            raise ValueError(
                f'{self.options.data_root} has no labelled image in the folder {folder}, which '
                f'--preset {self.options.preset} needs: choose --preset scene.'
            )
        return names

    def partition(self) -> tuple[draw.Partition, str]:
        """Return training, validation and test tiles, and how they were chosen."""
        options = self.options
        if options.preset == 'official':
            val = self.in_folder('val')
            has_test = any(name.startswith('test/') for name in self.tiles.labelled)
            test = self.in_folder('test') if has_test else val
            return draw.Partition(self.in_folder('train'), val, test), (
                'folders of the data set; ' + ('' if has_test else 'test is val')
            ).rstrip('; ')
        if options.preset == 'dwl' and options.dataset == 'loveda':
            halves = draw.draw_partition(
                self.in_folder('val'), self.scene_regex, options.seed, (1, 1, 0), 'tile'
            )
            return draw.Partition(self.in_folder('train'), halves.train, halves.val), (
                'train folder; val folder halved at random, tile by tile'
            )
        if options.preset == 'semiearth':
            return self.semiearth()
        if options.preset == 'co2s':
            return self.co2s()
        unit: draw.Unit = 'scene' if options.preset == 'scene' else 'tile'
        shares = draw.SHARES if options.preset == 'dwl' else tuple(options.shares)
        drawn = draw.draw_partition(
            self.tiles.labelled,
            self.scene_regex,
            options.seed,
            shares,
            unit,
            self.presence,
            self.wanted(self.tiles.labelled),
        )
        shown = ' : '.join(map(str, shares))
        return drawn, f'{unit}s drawn at random, {shown}'

    def semiearth(self) -> tuple[draw.Partition, str]:
        """Return SemiEarth's partition of Potsdam; the order of its training tiles matters."""
        if self.options.dataset != 'potsdam':
            raise ValueError(
                f"--preset semiearth is for potsdam, not {self.options.dataset!r}: the release's "
                'other lists follow no known recipe, import them with --import-list.'
            )
        index = release_lists.TileIndex(
            'potsdam', self.tiles.labelled, tile_order=self.options.tile_order
        )
        index.check_running_numbers()
        numbers = draw.semiearth_partition(len(index.scenes) * index.windows)
        partition = draw.Partition(
            release_lists.semiearth_names(numbers.train, index),
            release_lists.semiearth_names(numbers.val, index),
            release_lists.semiearth_names(numbers.test, index),
        )
        return partition, (
            "SemiEarth's release: numbers 1..5472 sorted as text, random.seed(42), shuffled, cut "
            f'at 60 and 80 percent; number n is window (n - 1) % 144 + 1, row by row, of tile '
            f'(n - 1) // 144 in {self.options.tile_order} order (assumed)'
        )

    def co2s(self) -> tuple[draw.Partition, str]:
        """Return a partition of single tiles as in Co2S, whose test list is the validation list."""
        if self.protocol is None:
            raise ValueError(
                f'--preset co2s is for {", ".join(draw.CO2S)}, not {self.options.dataset!r}: '
                'choose --preset tile with --shares 90 0 10.'
            )
        percent = self.protocol.percent
        drawn = draw.draw_partition(
            self.tiles.labelled,
            self.scene_regex,
            self.options.seed,
            (percent, 0, 100 - percent),
            'tile',
            self.presence,
            self.wanted(self.tiles.labelled),
        )
        return draw.Partition(drawn.train, drawn.test, drawn.test, drawn.attempt), (
            f'tiles drawn at random, {percent} : {100 - percent}; test is val'
        )

    def draw(self) -> Split:
        """Draw a split by the preset."""
        options, ratios = self.options, self.ratios
        partition, how = self.partition()
        if options.preset == 'semiearth':
            reason = "the order of the release's list"
            order = draw.LabelledOrder(partition.train, 'any', reason)
        else:
            unit = options.labelled_by
            shuffle = unit == 'auto' and options.preset in ('dwl', 'tile', 'co2s')
            order = draw.order_labelled(
                partition.train,
                self.scene_regex,
                list(ratios.values()),
                options.seed,
                'any' if shuffle else unit,
                self.presence,
                self.wanted(partition.train),
            )
        extra = self.extra([*partition.val, *partition.test]) if options.extra_unlabelled else []
        sets = draw.labelled_sets(order.order, ratios, extra)
        for name, (_, unlabelled) in sets.items():
            if not unlabelled:
                raise ValueError(
                    f'The ratio {name} of {len(order.order)} training tiles leaves none unlabelled:'
                    ' choose a smaller one.'
                )
        recipe = {
            'dataset': options.dataset,
            'preset': options.preset,
            'partition': {'recipe': how, 'redrawn': partition.attempt},
            'labelled': {
                'unit': order.unit,
                'reason': order.reason,
                'redrawn': order.attempt,
            },
            'seed': None if options.preset == 'semiearth' else options.seed,
            'extra_unlabelled': len(extra),
        }
        split = Split([*order.order, *extra], partition.val, partition.test, sets, recipe)
        if self.protocol is not None and self.protocol.tiles != len(self.tiles.labelled):
            split.warnings.append(
                f'the published protocol divides {self.protocol.tiles} tiles, here are '
                f'{len(self.tiles.labelled)}: the lists have other lengths'
            )
        return split

    def extra(self, evaluated: Sequence[str]) -> list[str]:
        """Return the images without a label whose scene is neither validated nor tested on."""
        known = {draw.scene_of(name, self.scene_regex) for name in evaluated}
        return [
            name
            for name in self.tiles.unlabelled
            if draw.scene_of(name, self.scene_regex) not in known
        ]

    def imported(self) -> Split:
        """Build a split from published lists."""
        every = [*self.tiles.labelled, *self.tiles.unlabelled]
        index = release_lists.TileIndex(self.options.dataset, every, self.options.tile_order)
        lists: dict[str, list[str]] = {}
        for item in self.options.import_list:
            role, _, path = item.partition('=')
            if not re.fullmatch(r'val|test|[^/]+/(labeled|unlabeled)', role) or not path:
                raise ValueError(
                    f'--import-list {item!r} is not ROLE=FILE with a role of val, test, '
                    '<ratio>/labeled or <ratio>/unlabeled.'
                )
            text = read_text(Path(path))
            lists[role] = release_lists.read_release_list(text, index, path)
        sets: Sets = {}
        for ratio in dict.fromkeys(role.split('/')[0] for role in lists if '/' in role):
            if f'{ratio}/labeled' not in lists or f'{ratio}/unlabeled' not in lists:
                raise ValueError(
                    f'--import-list has only one of {ratio}/labeled and {ratio}/unlabeled: give '
                    'both.'
                )
            sets[ratio] = (lists[f'{ratio}/labeled'], lists[f'{ratio}/unlabeled'])
        if not sets:
            raise ValueError(
                '--import-list has no labelled and unlabelled list: give <ratio>/labeled=FILE and '
                '<ratio>/unlabeled=FILE.'
            )
        train = list(dict.fromkeys(name for pair in sets.values() for one in pair for name in one))
        recipe = {
            'dataset': self.options.dataset,
            'preset': 'import',
            'partition': {'recipe': f'lists {", ".join(self.options.import_list)}'},
            'tile_order': self.options.tile_order,
        }
        return Split(train, lists.get('val', []), lists.get('test', []), sets, recipe)

    def finish(self, split: Split) -> None:
        """Check a split, and add counts, coverage and leaks to its recipe."""
        unlabelled_files = set(self.tiles.unlabelled)
        for ratio, (labelled, unlabelled) in split.sets.items():
            both = set(labelled) & set(unlabelled)
            if both:
                raise ValueError(
                    f'{len(both)} tiles are in the labelled and in the unlabelled list of {ratio} '
                    f'(first: {min(both)}): correct the lists.'
                )
            bare = [name for name in labelled if name in unlabelled_files]
            if bare:
                raise ValueError(
                    f'{len(bare)} labelled tiles of {ratio} have no label file (first: {bare[0]}): '
                    'convert the labels too.'
                )
        for role in ('val', 'test'):
            both = set(split.train) & set(getattr(split, role))
            if both:
                raise ValueError(
                    f'{len(both)} tiles are in training and in the {role} list (first: '
                    f'{min(both)}): correct the lists.'
                )
        lists = {
            role: names for role, names in split.lists.items() if not role.endswith('/unlabeled')
        }
        for role, names in split.lists.items():
            repeated = len(names) - len(set(names))
            if repeated:
                split.warnings.append(
                    f'{role} repeats tiles on {repeated} of its {len(names)} lines, which count '
                    'several times'
                )
        split.recipe['scene_regex'] = self.scene_regex
        split.recipe['scenes'] = {
            role: len({draw.scene_of(name, self.scene_regex) for name in names})
            for role, names in lists.items()
        }
        if self.presence is not None:
            split.recipe['classes_absent'] = {}
            for role, names in lists.items():
                absent = draw.missing_ids(names, self.presence, self.class_names)
                if absent:
                    absent_names = [self.class_names[class_id] for class_id in absent]
                    split.recipe['classes_absent'][role] = absent_names
                    split.warnings.append(f'{role} shows no {", ".join(absent_names)}')
        labelled_lists = {ratio: pair[0] for ratio, pair in split.sets.items()}
        split.recipe['leak'] = {
            role: asdict(
                draw.leak_report(split.train, labelled_lists, lists[role], self.scene_regex)
            )
            for role in ('val', 'test')
            if role in lists
        }
        if split.test and split.test == split.val:
            split.warnings.append(
                'test is val: a model selected on it is reported on it; choose --preset scene for '
                'an honest test list'
            )
        left_out = len(self.tiles.unlabelled) - len(unlabelled_files & set(split.train))
        if left_out:
            split.warnings.append(f'{left_out} images without a label are in no list')
