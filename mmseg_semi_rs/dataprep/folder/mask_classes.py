# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Which values or colours of masks are classes: as the user says, or a proposal with reasons."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from ...classes import class_colours
from ...rasters.masks import Colour, Mask, packed, unpacked
from ..convert.raw_labels import ColourLabels

IGNORED = 255
Zero = Literal['auto', 'class', 'ignore']

_TOLERANCE = 32  # largest channel difference caused by lossy compression and smoothed edges
_RARE = 1e-3  # share of pixels below which one of many colours is accidental
_FEW_COLOURS = 32  # more colours in lossless masks come from smoothed edges
_MAX_CLASSES = 60
_PEAK = 1e-2  # share of pixels off edges from which a grey level is no mixture
_MIXED = 1e-2  # share of these pixels up to which all other levels may be mixtures
_NEAR = 8  # distance to a grey level that smoothing may cause
_FEW_BETWEEN = 12  # number of levels in between up to which they may be classes
_NO_CLASS = re.compile(
    r'(un(label|classif|annotat|defin)\w*|no[ _-]?data|ignored?|void|nan|none|null)', re.IGNORECASE
)


@dataclass(frozen=True)
class MaskValues:
    """Values in all masks of a folder.

    Attributes:
        counts: Number of pixels of each value; colours as 0xRRGGBB.
        interior: The same without pixels along edges, whose mixed values are no classes; empty if
            no such count is needed.
        coloured: Whether values are colours.
        lossy: Whether masks were compressed lossily.
        palette: Colours that the files assign to their values.
        names: Names that the files assign to their values.
        declared: Number of masks that declare a value as no data, by that value.
    """

    counts: Counter[int]
    interior: Counter[int]
    coloured: bool
    lossy: bool
    palette: dict[int, Colour]
    names: dict[int, str]
    declared: Counter[int]


class WantedClass(NamedTuple):
    """A class that the user asked for.

    Attributes:
        name: Name of the class.
        value: Its number, or colour as 0xRRGGBB, in the masks; None if not given.
        coloured: Whether ``value`` is a colour.
    """

    name: str
    value: int | None = None
    coloured: bool = False


@dataclass(frozen=True)
class ClassPlan:
    """Conversion of masks to class ids.

    Attributes:
        classes: Names in the order of their ids.
        palette: RGB colour of each class.
        values: Value of each class in the masks: a number, or a colour as 0xRRGGBB.
        coloured: Whether values are colours.
        tolerance: Largest channel difference at which a value counts as the nearest class.
        threshold: Grey level from which pixels are of the second of two classes; None if classes
            are given by values.
        excluded: Values that are no class even if they are near one.
        ignored: Number of pixels of each value that is no class.
        reasons: Sentences on how this was decided.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    values: tuple[int, ...]
    coloured: bool
    tolerance: int = 0
    threshold: int | None = None
    excluded: tuple[int, ...] = ()
    ignored: dict[int, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()

    def with_colours(self, wanted: Sequence[str]) -> ClassPlan:
        """Return the plan with other colours for some classes.

        Args:
            wanted: ``name=#RRGGBB`` or ``name=red``.

        Raises:
            ValueError: There is no such class or colour.
        """
        palette = list(self.palette)
        for text in wanted:
            name, _, colour = text.rpartition('=')
            if name not in self.classes:
                raise ValueError(
                    f'--colours {text!r} names none of the classes {", ".join(self.classes)}: '
                    'write name=#RRGGBB.'
                )
            try:
                r, g, b = ImageColor.getrgb(colour)[:3]
            except ValueError as error:
                raise ValueError(
                    f'--colours {text!r} is no colour: write name=#RRGGBB, or a name as red.'
                ) from error
            palette[self.classes.index(name)] = (r, g, b)
        return replace(self, palette=tuple(palette))

    @property
    def as_stored(self) -> bool:
        """Whether masks already hold the class ids, and 255 for pixels without a class."""
        return (
            not self.coloured
            and self.threshold is None
            and not self.tolerance
            and all(value == index for index, value in enumerate(self.values))
            and set(self.ignored) <= {IGNORED}
        )

    @property
    def legend(self) -> ColourLabels:
        """Decoder of coloured masks."""
        pairs = tuple((unpacked(value), index) for value, index in self._ids.items())
        return ColourLabels(pairs, IGNORED, self.tolerance, 'ignore')

    @property
    def _ids(self) -> dict[int, int]:
        """Id of each value of :attr:`values`, and of those that are excluded."""
        ids = {value: index for index, value in enumerate(self.values)}
        return ids | dict.fromkeys(self.excluded, IGNORED)

    def encode(self, mask: Mask) -> np.ndarray:
        """Convert a mask to class ids, (H, W) uint8, with 255 for pixels without a class."""
        if self.threshold is not None:
            grey = mask.pixels.mean(-1) if mask.coloured else mask.pixels
            ids = (grey >= self.threshold).astype(np.uint8)
            ids[np.isin(packed(mask.pixels) if mask.coloured else grey, self.excluded)] = IGNORED
        elif self.coloured:
            ids = self.legend.decode(Image.fromarray(mask.colours), 'mask').ids
        else:
            ids = np.full(mask.pixels.shape, IGNORED, np.uint8)
            nearest = np.full(mask.pixels.shape, self.tolerance + 1)
            for value, index in self._ids.items():
                distance = np.abs(mask.pixels.astype(np.int64) - value)
                ids[distance < nearest] = index
                nearest = np.minimum(nearest, distance)
        if mask.valid is not None:
            ids = np.where(mask.valid, ids, np.uint8(IGNORED))
        return ids

    def tally(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Convert pixel counts of values to those of class ids, including values near a class."""
        totals: Counter[int] = Counter()
        for value, pixels in counts.items():
            index = self._index(value)
            if index is not None:
                totals[index] += pixels
        return dict(totals)

    def _index(self, value: int) -> int | None:
        if self.threshold is not None:
            id_ = int(_grey(value, self.coloured) >= self.threshold)
            return None if value in self.excluded else id_
        near = [(_distance(value, v, self.coloured), k) for v, k in self._ids.items()]
        distance, index = min(near)
        return index if distance <= self.tolerance and index != IGNORED else None

    def show(self, value: int) -> str:
        """Format a value of :attr:`values` for the user."""
        if self.threshold is not None:
            return f'{"from" if value else "below"} {self.threshold}'
        return f'#{value:06x}' if self.coloured else str(value)


def parse_class(text: str) -> WantedClass:
    """Parse one of ``--classes``: ``name``, ``name=3`` or ``name=#RRGGBB``.

    Raises:
        ValueError: The text has none of these forms.

    Examples:
        >>> parse_class('road=#ff0000')
        WantedClass(name='road', value=16711680, coloured=True)
    """
    match = re.fullmatch(r'([^=]+)(?:=(?:#([0-9a-fA-F]{6})|(-?\d+)))?', text.strip())
    if match is None:
        raise ValueError(
            f'--classes {text!r} is no class: write name, name=3 for a value of the masks, or '
            'name=#RRGGBB for a colour.'
        )
    name, colour, number = match.groups()
    if colour is not None:
        return WantedClass(name, int(colour, 16), True)
    return WantedClass(name, None if number is None else int(number))


def propose_classes(
    masks: MaskValues,
    wanted: Sequence[WantedClass] = (),
    zero: Zero = 'auto',
    ignore: Sequence[int] = (),
    threshold: int | None = None,
    tolerance: int | None = None,
) -> ClassPlan:
    """Decide which values of masks are classes.

    Args:
        masks: Values in the masks.
        wanted: Classes that the user names, either all with a value or all without.
        zero: Whether 0 (black) is a class. ``'auto'`` decides by names and says why.
        ignore: Values that are no class.
        threshold: Grey level that separates two classes; None uses the values.
        tolerance: Largest channel difference at which a value counts as the nearest class. Defaults
            to 0, and to 32 for lossy or smoothed colours.

    Raises:
        ValueError: The names do not fit the values, or fewer than two classes are left.
    """
    if threshold is not None:
        marks = [value for value in masks.declared if value]
        excluded = {*ignore, *marks, *([0] if zero == 'ignore' else [])}
        return _two_grey_levels(masks, threshold, wanted, tuple(sorted(excluded)))
    return _ClassPlanner(masks, zero, set(ignore), tolerance).decide(list(wanted))


def _two_grey_levels(
    masks: MaskValues, threshold: int, wanted: Sequence[WantedClass], excluded: tuple[int, ...]
) -> ClassPlan:
    """Plan two classes: pixels darker than a threshold, and the rest without excluded values."""
    names = [one.name for one in wanted] or ['background', 'foreground']
    if len(set(names)) != 2 or any(one.value is not None for one in wanted):
        raise ValueError(
            f'--mask-threshold {threshold} makes two classes: give --classes two names without '
            'values, the darker one first.'
        )
    levels = [_grey(v, masks.coloured) for v in masks.counts if v not in excluded]
    if not min(levels, default=0) < threshold <= max(levels, default=0):
        raise ValueError(
            f'--mask-threshold {threshold} does not divide the masks, whose grey levels are '
            f'{min(levels, default=0):g} to {max(levels, default=0):g}: choose one between.'
        )
    reasons = [f'pixels below {threshold} are {names[0]}, the others {names[1]} (--mask-threshold)']
    ignored = {value: masks.counts[value] for value in excluded if masks.counts[value]}
    if ignored:
        listed = ', '.join(f'#{v:06x}' if masks.coloured else str(v) for v in ignored)
        reasons.append(f'ignored: {listed}')
    colours = tuple((r, g, b) for r, g, b in class_colours(names))
    return ClassPlan(
        tuple(names),
        colours,
        (0, 1),
        masks.coloured,
        threshold=threshold,
        excluded=excluded,
        ignored=ignored,
        reasons=tuple(reasons),
    )


class _ClassPlanner:
    def __init__(
        self, masks: MaskValues, zero: Zero, ignore: set[int], tolerance: int | None
    ) -> None:
        self.masks, self.counts, self.coloured = masks, masks.counts, masks.coloured
        self.interior = masks.interior or masks.counts
        self.lossy, self.zero, self.ignore = masks.lossy, zero, ignore
        self.asked_tolerance = tolerance
        self.reasons: list[str] = []

    def decide(self, wanted: list[WantedClass]) -> ClassPlan:
        pairs = self.named(wanted) if wanted and wanted[0].value is not None else None
        if pairs is None:
            pairs = self.unnamed([one.name for one in wanted])
        elif any(one.value is None for one in wanted):
            raise ValueError(
                f'--classes {" ".join(one.name for one in wanted)} gives values for some classes '
                'only: write all as name=value, or none.'
            )
        if len({name for _, name in pairs}) < len(pairs):
            listed = ', '.join(name for _, name in pairs)
            raise ValueError(f'Two classes have one name ({listed}): give each its own.')
        if len(pairs) > IGNORED:
            raise ValueError(
                f'--classes has {len(pairs)} names, and masks have room for {IGNORED}: merge some.'
            )
        if len(pairs) < 2:
            listed = ', '.join(self.show(value) for value, _ in self.counts.most_common(5))
            lost = ', '.join(map(self.show, self.masks.declared))
            listed += f'; {lost} is declared as no data' if lost else ''
            raise ValueError(
                f'The masks show {len(pairs)} class{"" if len(pairs) == 1 else "es"} (values: '
                f'{listed}), and two are needed to learn anything: add masks that show others, or '
                'say which values are classes by --classes name=value and --zero class.'
            )
        self.tell_declared(pairs)
        values = tuple(value for value, _ in pairs)
        if self.coloured:
            colours = [unpacked(value) for value in values]
        else:
            palette = self.masks.palette
            colours = [palette[value] for value in values if value in palette]
            if len(set(colours)) < len(values):
                colours = [(r, g, b) for r, g, b in class_colours([name for _, name in pairs])]
        plan = ClassPlan(
            tuple(name for _, name in pairs),
            tuple(colours),
            values,
            self.coloured,
            self.tolerance,
            excluded=tuple(sorted({*self.ignore, *self.masks.declared}.difference(values))),
        )
        ignored = {v: n for v, n in self.counts.items() if not plan.tally({v: n})}
        near = sum(n for v, n in self.counts.items() if v not in values and v not in ignored)
        total = max(1, sum(self.counts.values()))
        if near:
            self.reasons.append(
                f'{near:,} pixels ({near / total:.2%}) of colours near these are taken for the '
                f'nearest, up to {self.tolerance} away (--tolerance)'
            )
        if ignored:
            shown = sorted(ignored, key=lambda value: -ignored[value])
            listed = ', '.join(map(self.show, shown[:6])) + (', ...' if len(shown) > 6 else '')
            self.reasons.append(
                f'ignored, {sum(ignored.values()) / total:.2%} of the masks: {listed}'
            )
        return replace(plan, ignored=ignored, reasons=tuple(self.reasons))

    @property
    def tolerance(self) -> int:
        """Largest difference up to which a value counts as the nearest class."""
        if self.asked_tolerance is not None:
            return self.asked_tolerance
        return _TOLERANCE if self.coloured and self.lossy else 0

    def tell_declared(self, pairs: Sequence[tuple[int, str]]) -> None:
        """Explain what happens to values that masks declare as no data."""
        chosen = dict(pairs)
        for value, masks in self.masks.declared.items():
            shown = f'{self.show(value)} is declared as no data in {masks} masks'
            if value in chosen:
                self.reasons.append(f'{shown}, but is the class {chosen[value]} here')
            elif self.counts.get(value):
                self.reasons.append(
                    f'{shown}: ignored (name it by --classes name={self.show(value)} if it is a '
                    'class)'
                )

    def show(self, value: int) -> str:
        return f'#{value:06x}' if self.coloured else str(value)

    def named(self, wanted: list[WantedClass]) -> list[tuple[int, str]]:
        """Return the classes whose values the user gave."""
        if self.coloured and all(len(set(unpacked(value))) == 1 for value in self.counts):
            wanted = [  # grey masks that are colours only because of their compression
                w if w.coloured else WantedClass(w.name, (w.value or 0) * 0x010101, True)
                for w in wanted
            ]
        pairs = [(one.value, one.name) for one in wanted if one.value is not None]
        if any(one.coloured != self.coloured for one in wanted if one.value is not None):
            kind = 'colours, name=#RRGGBB' if self.coloured else 'numbers, name=3'
            raise ValueError(
                f'The masks hold {kind.split(",")[0]}, but --classes names '
                f'{wanted[0].name}={"a number" if self.coloured else "a colour"}: write {kind}.'
            )
        if len({value for value, _ in pairs}) < len(pairs):
            raise ValueError('--classes gives one value to two classes: give each its own.')
        if self.coloured:
            self.lossy = self.lossy or len(self.counts) > _FEW_COLOURS
        self.reasons.append('classes are those of --classes, everything else is ignored')
        return pairs

    def unnamed(self, names: list[str]) -> list[tuple[int, str]]:
        """Derive classes from the values that occur, with or without given names."""
        if not self.coloured:
            self.refuse_smoothed()
        values = self.colours() if self.coloured else sorted(self.counts)
        if names and self.coloured:
            listed = ' '.join(f'name=#{value:06x}' for value in values)
            raise ValueError(
                f'The masks hold colours and --classes {" ".join(names)} does not say which is '
                f'which: give each its colour, --classes {listed}.'
            )
        values = [value for value in values if not self.is_ignored(value)]
        values = self.without_marks(values)
        if len(values) > _MAX_CLASSES and not names:
            raise ValueError(
                f'The masks hold {len(values)} values, e.g. '
                f'{", ".join(map(self.show, values[:6]))}, which are hardly all classes: say which '
                'are by --classes name=value, with --tolerance for what is near them, or divide '
                'two classes by --mask-threshold.'
            )
        if names:
            return self.by_names(values, names)
        values = self.judged_zero(values)
        binary = not self.coloured and values == [0, 255]
        proposed = {0: 'background', 255: 'foreground'} if binary else self.masks.names
        prefix = 'colour' if self.coloured else 'class'
        return [
            (value, proposed.get(value) or f'{prefix}_{self.show(value).lstrip("#")}')
            for value in values
        ]

    def is_ignored(self, value: int) -> bool:
        """Return whether ``--ignore`` names a value or one near it, or it is declared no data."""
        if value in self.masks.declared and not (value == 0 and self.zero == 'class'):
            return True
        return any(
            _distance(value, other, self.coloured) <= self.tolerance for other in self.ignore
        )

    def refuse_smoothed(self) -> None:
        """Raise an error if the values are a few grey levels and their mixtures along edges."""
        total = sum(self.interior.values())
        peaks: list[int] = []
        mixed = 0
        for value, pixels in self.interior.most_common():
            if all(abs(value - peak) > _NEAR for peak in peaks):
                if pixels >= _PEAK * total:
                    peaks.append(value)
                else:
                    mixed += pixels
        peaks.sort()
        inner = [v for v in self.counts if v not in peaks and peaks and peaks[0] < v < peaks[-1]]
        apart = all(b - a >= _TOLERANCE for a, b in itertools.pairwise(peaks))
        if not (len(peaks) >= 2 and apart and len(inner) > _FEW_BETWEEN and mixed < _MIXED * total):
            return
        on_peaks = (n for v, n in self.counts.items() if any(abs(v - p) <= _NEAR for p in peaks))
        share = sum(on_peaks) / sum(self.counts.values())
        levels = ', '.join(map(str, peaks))
        way = (
            f'--mask-threshold {(peaks[0] + peaks[1] + 1) // 2}'
            if len(peaks) == 2
            else f'--classes {" ".join(f"name={v}" for v in peaks)} --tolerance '
            f'{min(b - a for a, b in itertools.pairwise(peaks)) // 2}'
        )
        raise ValueError(
            f'The masks hold {len(self.counts)} values, of which {levels} are {share:.0%} of the '
            f'pixels and the others lie along edges, as smoothing leaves them: give {way}.'
        )

    def colours(self) -> list[int]:
        """Return the colours that are classes: all if they are few, else the frequent ones."""
        if len(self.counts) <= _FEW_COLOURS and not self.lossy:
            self.reasons.append(f'each of the {len(self.counts)} colours is a class')
            return sorted(self.counts)
        self.lossy = True
        kept: list[int] = []
        for value, pixels in self.interior.most_common():
            if pixels < _RARE * sum(self.interior.values()):
                break
            if all(_distance(value, other) > max(1, self.tolerance) for other in kept):
                kept.append(value)
        self.reasons.append(
            'there are many colours (lossy compression, smoothed edges): the '
            f'{len(kept)} frequent ones are classes, with what differs by up to {self.tolerance} '
            '(--tolerance)'
        )
        if len(kept) == 2 and all(len(set(unpacked(value))) == 1 for value in kept):
            middle = round(sum(value & 255 for value in kept) / 2)
            self.reasons.append(
                f'they are two grey levels: --mask-threshold {middle} ignores nothing between them'
            )
        return sorted(kept)

    def without_marks(self, values: list[int]) -> list[int]:
        """Remove 255, 65535 and negative values, which mark pixels without a class."""
        if self.coloured:
            return values
        if min(values, default=0) < 0:
            self.reasons.append('negative values are no classes: ignored')
            values = [value for value in values if value >= 0]
        if values == [0, IGNORED] and self.zero != 'ignore':
            self.reasons.append('0 and 255 alone: two classes (--ignore 255 if it is none)')
            return values
        for mark in sorted({IGNORED, 65535}.intersection(values)):
            self.reasons.append(f'{mark} is the usual mark of pixels without a class: ignored')
            values = [value for value in values if value != mark]
        return values

    def judged_zero(self, values: list[int]) -> list[int]:
        """Remove 0 from the values if it is not a class."""
        if 0 not in values:
            return values
        what = 'black' if self.coloured else '0'
        told = self.masks.names.get(0, '')
        if self.zero == 'ignore':
            self.reasons.append(f'{what} is ignored (--zero ignore)')
        elif self.zero == 'auto' and _NO_CLASS.fullmatch(told):
            self.reasons.append(f'0 is called {told!r} in the file: ignored (--zero class if not)')
        else:
            asked = ' (--zero class)' if self.zero == 'class' else ' (--zero ignore if it is none)'
            self.reasons.append(f'{what} is a class{asked}')
            return values
        return [value for value in values if value != 0]

    def by_names(self, values: list[int], names: list[str]) -> list[tuple[int, str]]:
        """Assign names to values; 0 is no class if the values count from 1."""
        count = len(names)
        top = max(values, default=0)
        if self.zero != 'ignore' and top < count and self.ignore.isdisjoint(range(count)):
            self.reasons.append(f'{count} names for the values 0 to {count - 1}')
            return list(enumerate(names))
        from_one = range(1, count + 1)
        if self.zero != 'class' and top == count and self.ignore.isdisjoint(from_one):
            if 0 in values:
                self.reasons.append(
                    f'{count} names for the values 1 to {count}: 0 is left and ignored (--zero '
                    'class, and one name more, if it is one)'
                )
            return list(enumerate(names, 1))
        used = [value for value in values if value or self.zero != 'ignore']
        if len(used) == count:
            self.reasons.append(f'{count} names for the values {", ".join(map(str, used))}')
            return list(zip(used, names, strict=True))
        raise ValueError(
            f'--classes has {count} names ({" ".join(names)}) but the masks hold the values '
            f'{", ".join(map(str, used))}: give one name for each, or write name=value.'
        )


def _distance(first: int, second: int, coloured: bool = True) -> int:
    """Return the largest channel difference of two colours, or the difference of two numbers."""
    if not coloured:
        return abs(first - second)
    return max(abs(a - b) for a, b in zip(unpacked(first), unpacked(second), strict=True))


def _grey(value: int, coloured: bool) -> float:
    """Return the grey level of a number or a colour."""
    return sum(unpacked(value)) / 3 if coloured else value
