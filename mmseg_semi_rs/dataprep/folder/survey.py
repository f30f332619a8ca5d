# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What is in somebody's folders of images and masks: sizes, bands, values, what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ...rasters.files import IMAGE_SUFFIXES, list_images
from ...rasters.masks import Colour, Mask, read_mask
from ...rasters.reader import RasterInfo, raster_info, read_rgb
from ...utils.progress import map_threaded
from .mask_classes import ClassPlan

_DECODED = 4096**2  # pixels up to which an image is decoded to see whether all of it is there

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


@dataclass(frozen=True)
class Picture:
    """An image that can be read.

    Attributes:
        name: Path below the image folder.
        stem: The same without suffix: what a mask shares with it.
        info: Its header.
    """

    name: str
    stem: str
    info: RasterInfo


@dataclass(frozen=True)
class MaskSummary:
    """A mask that fits its image.

    Attributes:
        name: Path below the mask folder.
        counts: Pixels of each value, of a colour as 0xRRGGBB; those without data left out.
        calm: The same of colours away from edges; empty for numbers.
        painted: See :class:`~.mask_files.Mask`.
        grey: See :class:`~.mask_files.Mask`.
        direct: See :class:`~.mask_files.Mask`.
        lossy: See :class:`~.mask_files.Mask`.
        palette: See :class:`~.mask_files.Mask`.
        names: See :class:`~.mask_files.Mask`.
    """

    name: str
    counts: Counter[int]
    calm: Counter[int]
    painted: bool
    grey: bool
    direct: bool
    lossy: bool
    palette: dict[int, Colour]
    names: dict[int, str]

    def as_colours(self) -> MaskSummary:
        """The same of a grey mask whose values are colours: black, white and between."""
        colours = Counter({value * 0x010101: pixels for value, pixels in self.counts.items()})
        return replace(self, counts=colours, calm=colours, painted=True, grey=False)


@dataclass
class Survey:
    """What was found.

    Attributes:
        image_dir: Folder of the images.
        mask_dir: Folder of the masks, if there is one.
        pictures: Images by stem.
        masks: Masks by the stem of their image.
        problems: One sentence for each file that is left out.
    """

    image_dir: Path
    mask_dir: Path | None
    pictures: dict[str, Picture] = field(default_factory=dict)
    masks: dict[str, MaskSummary] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def painted(self) -> bool:
        """Whether masks hold colours."""
        return any(mask.painted for mask in self.masks.values())

    @property
    def lossy(self) -> bool:
        """Whether a mask was compressed lossily."""
        return any(mask.lossy for mask in self.masks.values())

    @property
    def counts(self) -> Counter[int]:
        """Pixels of each value in all masks."""
        return sum((mask.counts for mask in self.masks.values()), Counter())

    @property
    def calm(self) -> Counter[int]:
        """Pixels of each colour away from edges, in all masks."""
        return sum((mask.calm for mask in self.masks.values()), Counter())

    @property
    def palette(self) -> dict[int, Colour]:
        """Colours that the masks have for their values."""
        return {k: v for mask in self.masks.values() for k, v in mask.palette.items()}

    @property
    def names(self) -> dict[int, str]:
        """Names that the masks have for their values."""
        return {k: v for mask in self.masks.values() for k, v in mask.names.items()}

    @property
    def needs_stretch(self) -> bool:
        """Whether an image has other pixels than 8 bits."""
        return any(picture.info.dtype != 'uint8' for picture in self.pictures.values())

    @property
    def longest_side(self) -> int:
        """Of all images, in pixels."""
        return max(max(p.info.width, p.info.height) for p in self.pictures.values())

    @property
    def typical_side(self) -> int:
        """The longer side in the middle of all images, in pixels."""
        sides = sorted(max(p.info.width, p.info.height) for p in self.pictures.values())
        return sides[len(sides) // 2]

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Number of images of each (width, height)."""
        return Counter((p.info.width, p.info.height) for p in self.pictures.values())

    @property
    def kinds(self) -> Counter[str]:
        """Number of images of each kind of pixels."""
        return Counter(
            f'{p.info.bands} band{"s" if p.info.bands > 1 else ""} of {p.info.dtype}'
            for p in self.pictures.values()
        )

    def presence(self, plan: ClassPlan) -> dict[str, frozenset[int]]:
        """Class ids that each mask shows, by the stem of its image."""
        return {stem: frozenset(plan.tally(mask.counts)) for stem, mask in self.masks.items()}


def survey_folder(
    image_dir: Path,
    mask_dir: Path | None = None,
    bands: Sequence[int] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Survey:
    """Look at every image and every mask; what cannot be used is named and left out.

    Args:
        image_dir: Folder of images, with sub-folders.
        mask_dir: Folder of masks, which have the paths of their images, with any suffix.
        bands: The bands that will be asked for; images that lack one are left out.
        workers: Threads. Defaults to the number of processors.
        progress: Whether to show a progress bar where there is a terminal.

    Raises:
        FileNotFoundError: A folder does not exist, or there is no image.
        ImportError: rasterio is needed and not installed.
        ValueError: No image can be read, or no mask fits one.
    """
    for role, folder in (('images', image_dir), ('masks', mask_dir)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f'The folder of {role} {folder} does not exist: correct it.')
    survey = Survey(image_dir, mask_dir)
    found = list_images(image_dir)
    inside = mask_dir is not None and _below(mask_dir, image_dir)
    if inside == '.':
        raise ValueError(
            f'Images and masks are both to be in {image_dir}: move the masks to a folder of their '
            'own, with the names of their images.'
        )
    if inside:
        found = {stem: names for stem, names in found.items() if not stem.startswith(f'{inside}/')}
    if not found:
        raise FileNotFoundError(
            f'There is no image in {image_dir} (files with {", ".join(IMAGE_SUFFIXES)}, any case): '
            'give the folder of the images.'
        )
    _note_twins(found, image_dir, survey.problems)

    def look(item: tuple[str, str]) -> Picture | str:
        return _look(image_dir, *item, bands)

    first = [(stem, names[0]) for stem, names in found.items()]
    for picture in map_threaded(look, first, 'looking at images' if progress else None, workers):
        if isinstance(picture, str):
            survey.problems.append(picture)
        else:
            survey.pictures[picture.stem] = picture
    _keep_one_depth(survey)
    if not survey.pictures:
        raise ValueError(
            f'None of the {len(found)} images in {image_dir} can be used; the first: '
            f'{survey.problems[0]}'
        )
    if mask_dir is not None:
        _survey_masks(survey, mask_dir, workers, progress)
    return survey


def _keep_one_depth(survey: Survey) -> None:
    """Leave out 8-bit images among deeper ones, or the reverse: one stretch cannot fit both."""
    deep = Counter(picture.info.dtype != 'uint8' for picture in survey.pictures.values())
    if len(deep) < 2:
        return
    kept = deep.most_common(1)[0][0]
    for stem, picture in list(survey.pictures.items()):
        if (picture.info.dtype != 'uint8') != kept:
            survey.problems.append(
                f'{survey.image_dir / picture.name} has pixels of {picture.info.dtype} where most '
                f'images have {"more than " if kept else ""}8 bits: make it like them.'
            )
            del survey.pictures[stem]


def _survey_masks(survey: Survey, mask_dir: Path, workers: int | None, progress: bool) -> None:
    masks = list_images(mask_dir)
    if inside := _below(survey.image_dir, mask_dir):
        masks = {stem: names for stem, names in masks.items() if not stem.startswith(f'{inside}/')}
    if not masks:
        raise FileNotFoundError(
            f'There is no mask in {mask_dir} (files with {", ".join(IMAGE_SUFFIXES)}, any case): '
            'give the folder of the masks.'
        )
    _note_twins(masks, mask_dir, survey.problems)
    paired = []
    for stem, names in masks.items():
        if stem in survey.pictures:
            paired.append((survey.pictures[stem], names[0]))
        elif not any(f'{survey.image_dir / stem}.' in problem for problem in survey.problems):
            survey.problems.append(
                f'{mask_dir / names[0]} has no image {survey.image_dir / stem}.*: give image and '
                'mask one name.'
            )

    def examine(pair: tuple[Picture, str]) -> MaskSummary | str:
        return _examine(mask_dir, *pair)

    found = map_threaded(examine, paired, 'looking at masks' if progress else None, workers)
    for (picture, _), mask in zip(paired, found, strict=True):
        if isinstance(mask, str):
            survey.problems.append(mask)
        else:
            survey.masks[picture.stem] = mask
    if survey.painted:  # then what is all black is that as well
        for stem, mask in survey.masks.items():
            if mask.grey:
                survey.masks[stem] = mask.as_colours()
    painted = Counter(mask.painted for mask in survey.masks.values())
    if len(painted) == 2:
        kept = painted.most_common(1)[0][0]
        for stem, mask in list(survey.masks.items()):
            if mask.painted != kept:
                survey.problems.append(
                    f'{mask_dir / mask.name} holds {"colours" if mask.painted else "numbers"} '
                    f'where most masks hold {"colours" if kept else "numbers"}: make it like them.'
                )
                del survey.masks[stem]
    if not survey.masks:
        raise ValueError(
            f'None of the {len(masks)} masks in {mask_dir} can be used with the images of '
            f'{survey.image_dir}; the first: {survey.problems[-1]}'
        )


def _below(folder: Path, other: Path) -> str | None:
    """Path of a folder below another one, ``'.'`` if they are the same; None if it is elsewhere."""
    folder, other = folder.resolve(), other.resolve()
    return folder.relative_to(other).as_posix() if folder.is_relative_to(other) else None


def _look(image_dir: Path, stem: str, name: str, bands: Sequence[int] | None) -> Picture | str:
    """An image, or what is wrong with it."""
    path = image_dir / name
    try:
        info = raster_info(path)
        if info.by_pillow and info.width * info.height <= _DECODED:
            info = replace(info, transparent=read_rgb(path).valid is not None)
    except ValueError as error:
        return str(error)
    if bands is not None and max(bands) > info.bands:
        return f'{path} has {info.bands} bands, not {max(bands)}: choose others by --bands.'
    return Picture(name, stem, info)


def _examine(mask_dir: Path, picture: Picture, name: str) -> MaskSummary | str:
    """A mask, or why it does not fit its image."""
    path = mask_dir / name
    try:
        mask: Mask = read_mask(path)
    except ValueError as error:
        return str(error)
    height, width = mask.pixels.shape[:2]
    if (width, height) != (picture.info.width, picture.info.height):
        return (
            f'{path} is {width} x {height} pixels but its image {picture.name} '
            f'{picture.info.width} x {picture.info.height}: draw it anew on this image.'
        )
    return MaskSummary(
        name,
        mask.count(),
        mask.count(calm=True) if mask.painted else Counter(),
        mask.painted,
        mask.grey,
        mask.direct,
        mask.lossy,
        mask.palette,
        mask.names,
    )


def _note_twins(found: Mapping[str, list[str]], folder: Path, problems: list[str]) -> None:
    for names in found.values():
        if len(names) > 1:
            problems.append(
                f'{folder / names[0]} and {", ".join(names[1:])} have one name: only the first is '
                'taken, rename the others.'
            )
