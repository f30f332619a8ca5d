# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Survey of a user's folders of images and masks: sizes, bands, values and unusable files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from ...rasters.files import IMAGE_SUFFIXES, composed, list_images, unread_images
from ...rasters.levels import RasterToBands
from ...rasters.masks import Colour, read_mask
from ...rasters.place import Place
from ...rasters.reader import RasterInfo, band_marks, raster_info, read_picture
from ...rasters.stretch import border_fill, read_small
from ...utils.progress import map_threaded
from .mask_classes import IGNORED, ClassPlan, MaskValues

_FEW_VALUES = 6  # more values may be mixtures in a smoothed mask
_DECODED = 4096**2  # pixels up to which an image is decoded to check that it is complete

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


@dataclass(frozen=True)
class Picture:
    """A readable image.

    Attributes:
        name: Path below the image folder.
        stem: The path without suffix, by which masks are matched.
        info: Header of the file.
        fill: Value (0 or 255) and share of 8-bit pixels that look like undeclared no data at the
            edges; None if there are few or none.
    """

    name: str
    stem: str
    info: RasterInfo
    fill: tuple[int, float] | None = None


@dataclass(frozen=True)
class MaskSummary:
    """A mask that fits its image; see :class:`~.rasters.masks.Mask` for what is not listed.

    Attributes:
        name: Path below the mask folder.
        counts: Number of pixels with data of each value, or of each colour as 0xRRGGBB.
        interior: The same for pixels off edges; empty for a mask of a few numbers.
        direct: As in ``Mask``, and False too if its name differs from the image's.
    """

    name: str
    counts: Counter[int]
    interior: Counter[int]
    coloured: bool
    grey: bool
    direct: bool
    lossy: bool
    palette: dict[int, Colour]
    names: dict[int, str]
    declared: int | None = None
    turned: bool = False

    def as_colours(self) -> MaskSummary:
        """Return the summary with colours as values: those of the palette, or grey ones."""

        def colour(value: int) -> int:
            r, g, b = self.palette.get(value, (0, 0, 0)) if self.palette else (value,) * 3
            return r << 16 | g << 8 | b

        def by_colour(counts: Counter[int]) -> Counter[int]:
            totals: Counter[int] = Counter()
            for value, pixels in counts.items():
                totals[colour(value)] += pixels
            return totals

        return replace(
            self,
            counts=by_colour(self.counts),
            interior=by_colour(self.interior or self.counts),
            coloured=True,
            grey=False,
            direct=False,
            names={},
            declared=None if self.declared is None else colour(self.declared),
        )

    @property
    def used_palette(self) -> dict[int, Colour]:
        """Colours of the values that occur."""
        return {value: self.palette[value] for value in self.counts if value in self.palette}


@dataclass
class Survey:
    """Result of a survey.

    Attributes:
        image_dir: Folder of the images.
        mask_dir: Folder of the masks, if there is one.
        pictures: Images by stem.
        masks: Masks by the stem of their image.
        problems: A message for each file that is left out.
        notes: Remarks.
        warp_masks: Whether masks on other ground than their images are resampled to these.
    """

    image_dir: Path
    mask_dir: Path | None
    pictures: dict[str, Picture] = field(default_factory=dict)
    masks: dict[str, MaskSummary] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warp_masks: bool = False

    @property
    def coloured(self) -> bool:
        """Whether masks hold colours."""
        return any(mask.coloured for mask in self.masks.values())

    @property
    def values(self) -> MaskValues:
        """Values in all masks."""
        masks = self.masks.values()
        return MaskValues(
            sum((mask.counts for mask in masks), Counter()),
            sum((mask.interior for mask in masks), Counter()),
            self.coloured,
            any(mask.lossy for mask in masks),
            {value: colour for mask in masks for value, colour in mask.palette.items()},
            {value: name for mask in masks for value, name in mask.names.items()},
            Counter(mask.declared for mask in masks if mask.declared is not None),
        )

    @property
    def places(self) -> dict[str, Place]:
        """Georeferences of the images that have one, by stem."""
        return {k: p.info.place for k, p in self.pictures.items() if p.info.place is not None}

    @property
    def needs_stretch(self) -> bool:
        """Whether an image has more than 8 bits."""
        return any(picture.info.deep for picture in self.pictures.values())

    @property
    def longest_side(self) -> int:
        """Longest side of all images, in pixels."""
        return max(max(p.info.width, p.info.height) for p in self.pictures.values())

    @property
    def typical_side(self) -> int:
        """Median of the images' longer sides, in pixels."""
        sides = sorted(max(p.info.width, p.info.height) for p in self.pictures.values())
        return sides[len(sides) // 2]

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Number of images of each (width, height)."""
        return Counter((p.info.width, p.info.height) for p in self.pictures.values())

    @property
    def kinds(self) -> Counter[str]:
        """Number of images by number of bands and data type."""
        return Counter(
            f'{p.info.bands} band{"s" if p.info.bands > 1 else ""} of {p.info.dtype}'
            for p in self.pictures.values()
        )

    @property
    def fills(self) -> list[str]:
        """Remarks on undeclared fill values at the edges of 8-bit images."""
        found: dict[int, list[tuple[float, str]]] = defaultdict(list)
        for picture in self.pictures.values():
            if picture.fill is not None:
                found[picture.fill[0]].append((picture.fill[1], picture.name))
        return [
            f'{len(filled)} image{"s have" if len(filled) > 1 else " has"} {value} in all bands '
            f'from an edge inwards, up to {max(filled)[0]:.0%} of {max(filled)[1]}, without '
            'declaring that as no data: '
            f'--nodata={value} leaves it out of masks and pseudo labels, --nodata=none says that '
            'it was measured'
            for value, filled in sorted(found.items())
        ]

    def presence(self, plan: ClassPlan) -> dict[str, dict[int, int]]:
        """Return the number of pixels of each class id in each mask, by the stem of its image."""
        return {stem: plan.tally(mask.counts) for stem, mask in self.masks.items()}


def survey_folder(
    image_dir: Path,
    mask_dir: Path | None = None,
    bands: Sequence[int] | None = None,
    mask_name: str | None = None,
    warp_masks: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Survey:
    """Examine every image and every mask; unusable ones are reported and left out.

    Args:
        image_dir: Folder of images, with sub-folders.
        mask_dir: Folder of masks with the same paths as their images, and any suffix.
        bands: Bands that will be read; images that lack one are left out.
        mask_name: How names of masks are derived from those of images, see :func:`mask_namer`.
            Defaults to the same names.
        warp_masks: Whether masks on other ground than their images are resampled to these;
            otherwise they are left out.
        workers: Number of threads. Defaults to two per core, at most 16.
        progress: Whether to show a progress bar on a terminal.

    Raises:
        FileNotFoundError: A folder does not exist, or has no images or masks.
        ImportError: rasterio is needed and not installed.
        ValueError: No image or no mask can be used, or both are in the same folder.
    """
    for role, folder in (('images', image_dir), ('masks', mask_dir)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f'The folder of {role} {folder} does not exist: correct it.')
    survey = Survey(image_dir, mask_dir, warp_masks=warp_masks)
    name_of = mask_namer(mask_name)
    if mask_dir is not None and mask_dir.resolve() == image_dir.resolve():
        raise ValueError(
            f'Images and masks are both to be in {image_dir}: move the masks to a folder of their '
            'own, with the names of their images.'
        )
    for folder in filter(None, (image_dir, mask_dir)):
        others = unread_images(folder)
        if others:
            listing = ', '.join(f'{count} {suffix}' for suffix, count in others.most_common())
            survey.notes.append(
                f'{folder} has files of kinds that are not read ({listing}): convert them to PNG '
                'or TIFF if they are images or masks'
            )
    listed = _listed('image', image_dir, mask_dir, survey.problems)

    def look(item: tuple[str, str]) -> Picture | str:
        return _look(image_dir, *item, bands)

    first = [(stem, names[0]) for stem, names in listed.items()]
    for picture in map_threaded(look, first, 'looking at images' if progress else None, workers):
        if isinstance(picture, str):
            survey.problems.append(picture)
        else:
            survey.pictures[picture.stem] = picture
    _keep_one_depth(survey)
    survey.notes += _other_units(survey)
    if not survey.pictures:
        raise ValueError(
            f'None of the {len(listed)} images in {image_dir} can be used; the first: '
            f'{survey.problems[0]}'
        )
    if mask_dir is not None:
        _survey_masks(survey, mask_dir, name_of, workers, progress)
    return survey


@dataclass(frozen=True)
class BandChoice:
    """Bands that a network reads.

    Attributes:
        bands: Band numbers, from 1, in the order of the network's channels.
        rgb: Numbers of the red, green and blue band among them, for pictures and RGB networks; a
            single number if there are not three.
        count: Number of bands of each file.
        notes: Remarks.
    """

    bands: list[int]
    rgb: list[int]
    count: int
    notes: list[str] = field(default_factory=list)

    @property
    def reader(self) -> Callable[..., RasterToBands]:
        """Constructor of :class:`~.rasters.levels.RasterToBands` with ``rgb`` and ``count`` set."""
        return partial(RasterToBands, rgb=self.rgb, count=self.count)


def choose_bands(
    survey: Survey, asked: Sequence[int] | None, rgb: Sequence[int] | None
) -> BandChoice:
    """Decide which bands are read; images with another number of bands than most are left out.

    Args:
        survey: Survey, changed in place: images that are left out are moved to its problems.
        asked: Band numbers; None for all but alpha.
        rgb: Numbers of red, green and blue. Defaults to the bands that the files mark as such, else
            to the first three, else to the first.

    Raises:
        ValueError: A band does not exist, or ``rgb`` are not one or three of the bands.
    """
    counts = Counter(picture.info.bands for picture in survey.pictures.values())
    count = counts.most_common(1)[0][0]
    for stem, picture in list(survey.pictures.items()):
        if picture.info.bands != count:
            survey.problems.append(
                f'{survey.image_dir / picture.name} has {picture.info.bands} bands where most '
                f'images have {count}: write it with the same bands.'
            )
            del survey.pictures[stem]
            survey.masks.pop(stem, None)
    first = next(iter(survey.pictures.values()))
    marks = band_marks(survey.image_dir / first.name)
    bands, notes = list(asked or range(1, count + 1)), []
    if asked is None and 'alpha' in marks and count > 1:
        alpha = marks.index('alpha') + 1
        bands.remove(alpha)
        notes.append(
            f'band {alpha} is marked as transparency and left out: name it among --bands if it was '
            'measured'
        )
    marked = [marks.index(name) + 1 for name in ('red', 'green', 'blue') if name in marks]
    if rgb is None and len(marked) == 3 and {*marked} <= {*bands}:
        rgb = marked
    shown = list(rgb or (bands[:3] if len(bands) >= 3 else bands[:1]))
    choice = BandChoice(bands, shown, count, notes)
    choice.reader(bands).choose(count, str(survey.image_dir / first.name))
    return choice


def unread_bands(survey: Survey) -> list[str]:
    """Return a remark on the bands that RGB leaves out, if there are any."""
    first = max(survey.pictures.values(), key=lambda picture: picture.info.bands)
    measured = [mark for mark in band_marks(survey.image_dir / first.name) if mark != 'alpha']
    if len(measured) in (1, 3):
        return []
    taken = 'bands 1, 2, 3' if len(measured) > 3 else 'band 1'
    return [
        f'{taken} of {len(measured)} {"are" if len(measured) > 3 else "is"} taken, as in '
        f'{first.name}: --bands 4 3 2 takes others as red, green and blue, --bands all makes a '
        'network of all'
    ]


def mask_namer(pattern: str | None) -> Callable[[str], str]:
    """Return a function from the stem of an image to that of its mask.

    Args:
        pattern: ``'{stem}_mask'`` adds to the name of the image; ``'patch=mask'`` replaces
            ``patch`` in it by ``mask``. Folders stay the same. None keeps the name.

    Raises:
        ValueError: The pattern has neither form.

    Examples:
        >>> mask_namer('{stem}_mask')('north/a'), mask_namer('patch=mask')('a_patch_3')
        ('north/a_mask', 'a_mask_3')
    """
    if pattern is None:
        return lambda stem: stem
    old, equals, new = pattern.partition('=')
    if '{stem}' not in pattern and not (equals and old):
        raise ValueError(
            f'--mask-name {pattern!r} says nothing of the name of the image: write e.g. '
            "'{stem}_mask', or patch=mask for a name that has mask where the image has patch."
        )

    def name(stem: str) -> str:
        folder, slash, base = stem.rpartition('/')
        named = pattern.replace('{stem}', base) if '{stem}' in pattern else base.replace(old, new)
        return composed(f'{folder}{slash}{named}')

    return name


def _keep_one_depth(survey: Survey) -> None:
    """Leave out 8-bit images among deeper ones or vice versa: one stretch cannot fit both."""
    deep = Counter(picture.info.deep for picture in survey.pictures.values())
    if len(deep) < 2:
        return
    kept = deep.most_common(1)[0][0]
    for stem, picture in list(survey.pictures.items()):
        if picture.info.deep != kept:
            survey.problems.append(
                f'{survey.image_dir / picture.name} has pixels of {picture.info.dtype} where most '
                f'images have {"more than " if kept else ""}8 bits: make it like them.'
            )
            del survey.pictures[stem]


def _other_units(survey: Survey) -> list[str]:
    """Return a remark if files declare different units, so that values differ in meaning."""
    first: dict[tuple[float, float], str] = {}
    for picture in survey.pictures.values():
        first.setdefault(picture.info.units, picture.name)
    if len(first) < 2:
        return []
    told = '; '.join(
        f'scale {scale:g} and offset {offset:g} in {name}'
        for (scale, offset), name in list(first.items())[:3]
    )
    return [
        f'files declare {len(first)} different units ({told}), and their numbers are taken as they '
        'are: bring them to one scale if these are not equal in brightness'
    ]


def _survey_masks(
    survey: Survey,
    mask_dir: Path,
    name_of: Callable[[str], str],
    workers: int | None,
    progress: bool,
) -> None:
    before = len(survey.problems)
    masks = _listed('mask', mask_dir, survey.image_dir, survey.problems)
    owners = {name_of(stem): stem for stem in survey.pictures}
    wanted = {name_of(stem) for stem in _left_out(survey)}
    alike = Counter(name.lower() for name in owners)  # Windows ignores the case of names
    folded = {name.lower(): stem for name, stem in owners.items() if alike[name.lower()] == 1}
    paired = []
    for stem, names in masks.items():
        if stem in owners:
            paired.append((survey.pictures[owners[stem]], names[0]))
        elif stem.lower() in folded and name_of(folded[stem.lower()]) not in masks:
            paired.append((survey.pictures[folded[stem.lower()]], names[0]))
        elif stem not in wanted:
            survey.problems.append(
                f'{mask_dir / names[0]} has no image {survey.image_dir / stem}.*: give image and '
                f'mask one name, or say by --mask-name how they differ, e.g. '
                f"'{_pattern(stem, owners)}'."
            )

    def examine(pair: tuple[Picture, str]) -> MaskSummary | str:
        return _examine(mask_dir, *pair, survey.warp_masks)

    examined = map_threaded(examine, paired, 'looking at masks' if progress else None, workers)
    for (picture, _), mask in zip(paired, examined, strict=True):
        if isinstance(mask, str):
            survey.problems.append(mask)
        else:
            survey.masks[picture.stem] = mask
    _turn_alike(survey)
    _let_colours_decide(survey)
    coloured = Counter(mask.coloured for mask in survey.masks.values())
    if len(coloured) == 2:
        kept = coloured.most_common(1)[0][0]
        for stem, mask in list(survey.masks.items()):
            if mask.coloured != kept:
                survey.problems.append(
                    f'{mask_dir / mask.name} holds {"colours" if mask.coloured else "numbers"} '
                    f'where most masks hold {"colours" if kept else "numbers"}: make it like them.'
                )
                del survey.masks[stem]
    if not survey.masks:
        raise ValueError(
            f'None of the {len(masks)} masks in {mask_dir} can be used with the images of '
            f'{survey.image_dir}; the first: {survey.problems[before]}'
        )


def _pattern(mask: str, images: Iterable[str]) -> str:
    """Suggest a pattern for the name of a mask, by the longest image name that it contains."""
    name = PurePosixPath(mask).name
    parts = {PurePosixPath(image).name for image in images}
    longest = max((part for part in parts if part in name), key=len, default='')
    return name.replace(longest, '{stem}') if longest else '{stem}_mask'


def _turn_alike(survey: Survey) -> None:
    """Treat all masks as drawn on upright pictures if the sides of some of them show it."""
    told = [stem for stem, mask in survey.masks.items() if mask.turned]
    by_exif = [stem for stem in survey.masks if survey.pictures[stem].info.orientation > 1]
    if by_exif and told:
        for stem in by_exif:
            survey.masks[stem] = replace(survey.masks[stem], turned=True, direct=False)
        survey.notes.append(
            f'{len(by_exif)} masks were drawn on pictures that EXIF turns, as the sides of '
            f'{survey.masks[told[0]].name} show: turned to lie as their images are stored'
        )
    elif by_exif:
        survey.notes.append(
            f'{len(by_exif)} images with masks have an orientation in EXIF, e.g. '
            f'{survey.pictures[by_exif[0]].name}, which turns neither them nor their masks: both '
            'are taken as they are stored'
        )


def _let_colours_decide(survey: Survey) -> None:
    """Use colours as values if numbers mean different colours from file to file."""
    coloured = survey.coloured
    if not coloured:
        colours: dict[int, set[Colour]] = defaultdict(set)
        values: dict[Colour, set[frozenset[int]]] = defaultdict(set)
        for mask in survey.masks.values():
            own: dict[Colour, set[int]] = defaultdict(set)
            for value, colour in mask.used_palette.items():
                if value == IGNORED:
                    continue
                colours[value].add(colour)
                own[colour].add(value)
            for colour, found in own.items():
                values[colour].add(frozenset(found))
        swapped = any(len(found) > 1 for found in colours.values()) or any(
            not any(set().union(*found) <= one for one in found) for found in values.values()
        )
        if not swapped:
            return
        bare = [m.name for m in survey.masks.values() if len(m.used_palette) < len(m.counts)]
        if bare:
            raise ValueError(
                'Masks have palettes that give one number several colours from file to file, and '
                f'{bare[0]} has numbers without a colour: write all masks with one palette.'
            )
        survey.notes.append(
            'palettes differ from mask to mask: their colours tell the classes, not their numbers'
        )
    for stem, mask in survey.masks.items():  # black is a colour as well
        if not mask.coloured and (not coloured or mask.grey or mask.palette):
            survey.masks[stem] = mask.as_colours()


def _left_out(survey: Survey) -> Iterator[str]:
    """Yield the stems of images that cannot be used."""
    for stem in list_images(survey.image_dir):
        if stem not in survey.pictures:
            yield stem


def _listed(
    role: str, folder: Path, other: Path | None, problems: list[str]
) -> dict[str, list[str]]:
    """List the files of a folder by stem, without those of ``other`` if that lies inside."""
    listed = list_images(folder)
    inner = other and other.resolve()
    if inner and inner.is_relative_to(folder.resolve()):
        below = inner.relative_to(folder.resolve()).as_posix()
        listed = {stem: names for stem, names in listed.items() if not stem.startswith(f'{below}/')}
    if not listed:
        raise FileNotFoundError(
            f'There is no {role} in {folder} (files with {", ".join(IMAGE_SUFFIXES)}, any case): '
            f'give the folder of the {role}s.'
        )
    for stem in [stem for stem in listed if len(stem.splitlines()) > 1]:
        name = listed.pop(stem)[0]
        problems.append(
            f'{str(folder / name)!r} has a line break in its name, which lists have no way to '
            'write: rename it.'
        )
    problems += [
        f'{folder / names[0]} and {", ".join(names[1:])} have one name: only the first is taken, '
        'rename the others.'
        for names in listed.values()
        if len(names) > 1
    ]
    return listed


def _look(image_dir: Path, stem: str, name: str, bands: Sequence[int] | None) -> Picture | str:
    """Examine an image; return a message if it cannot be used."""
    path = image_dir / name
    try:
        info = raster_info(path)
        pixels = np.empty((0, 0, 0), np.uint8)
        if not info.by_gdal and info.width * info.height <= _DECODED:
            pixels, valid = read_picture(path)
            info = replace(info, transparent=valid is not None and not valid.all())
        elif info.dtype == 'uint8' and not info.transparent:
            pixels = read_small(path)
        fill = None
        if pixels.size and pixels.dtype == np.uint8 and not info.transparent:
            fill = border_fill(pixels)
    except (ValueError, FileNotFoundError) as error:  # dangling links are listed too
        return str(error)
    if bands is not None and max(bands) > info.bands:
        return f'{path} has {info.bands} bands, not {max(bands)}: choose others by --bands.'
    return Picture(name, stem, info, fill)


def _examine(mask_dir: Path, picture: Picture, name: str, warped: bool) -> MaskSummary | str:
    """Examine a mask; return a message if it does not fit its image."""
    try:
        mask = read_mask(mask_dir / name, picture.info, warped)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    counts = mask.count()
    return MaskSummary(
        name,
        counts,
        mask.count(interior=True) if mask.coloured or len(counts) > _FEW_VALUES else Counter(),
        mask.coloured,
        mask.grey,
        mask.direct and composed(PurePosixPath(name).with_suffix('').as_posix()) == picture.stem,
        mask.lossy,
        mask.palette,
        mask.names,
        mask.declared,
        mask.turned,
    )
