# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Preparation of a user's images for training: used where they are, or converted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

from ...rasters.levels import RasterToBands, RasterToRGB
from ...rasters.masks import read_mask
from ...rasters.reader import RasterInfo, copy_window, raster_info, read_rgb, read_valid
from ...rasters.stretch import PERCENTILES, estimate_stretch
from ...rasters.windows import Window, cut_window
from ...utils.files import write_png
from ...utils.progress import map_threaded
from ...utils.sampling import evenly
from ..convert.archives import SourceError, SourceFile
from ..convert.conversion import Cut, Job, convert
from ..convert.raw_labels import IdLabels
from .mask_classes import IGNORED, ClassPlan
from .survey import Picture, Survey

LONGEST_SIDE = 1536  # pixels; decoding larger images for each crop takes longer than the training
TILE = 512

_SMALLEST_TILE = 64
_SAMPLED = 30  # images from which a stretch is estimated


@dataclass(frozen=True)
class ConversionPlan:
    """What is going to be converted.

    Attributes:
        convert_images: Whether images are converted.
        convert_masks: Whether masks are converted.
        tile: Side of the tiles that images are cut into, in pixels; None keeps them whole.
        reason: Reason for these choices, as a message.
    """

    convert_images: bool
    convert_masks: bool
    tile: int | None
    reason: str


@dataclass
class PreparedFolder:
    """Images that are ready for training.

    Attributes:
        image_dir: Folder of the images.
        mask_dir: Folder of their masks, 8-bit class ids.
        presence: Pixels of each class id in each labelled image, by its name without suffix.
        unlabelled: Names of images without a mask, or without a labelled pixel.
        files: File name with suffix of each image, if lists must have suffixes; else empty.
        side: Typical longer side in pixels.
        one_size: Whether all images have the same size.
        problems: A message for each file that could not be converted.
        notes: Remarks.
    """

    image_dir: Path
    mask_dir: Path
    presence: dict[str, dict[int, int]]
    unlabelled: list[str]
    files: dict[str, str]
    side: int
    one_size: bool
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RasterSource(SourceFile):
    """An image of any kind that opens as 8-bit RGB, with alpha 0 where it has no data."""

    to_rgb: RasterToRGB

    @property
    def fingerprint(self) -> str:
        """Text that changes with the file and with the stretch."""
        return f'{super().fingerprint}:{self.to_rgb!r}:alpha'

    def open_image(self) -> Image.Image:
        """Decode the image; see :meth:`SourceFile.open_image`."""
        try:
            pixels, valid = read_rgb(self.root / self.member, self.to_rgb)
            if valid is None:
                return Image.fromarray(pixels)
            alpha = np.where(valid, np.uint8(255), np.uint8(0))
            return Image.fromarray(np.dstack([pixels, alpha]))
        except ValueError as error:
            raise SourceError(str(error)) from error

    def read_pixels(self) -> Any:
        """Read RGB, or RGBA if some pixels have no data; see :meth:`SourceFile.read_pixels`."""
        return np.asarray(self.open_image())

    def write_tile(self, path: Path, pixels: Any, window: Window) -> None:
        """Write a window, without alpha if it has data everywhere."""
        tile = cut_window(pixels, window, 0)
        if (tile[..., 3:] == 255).all():
            tile = np.ascontiguousarray(tile[..., :3])
        write_png(path, tile)


class _Extent(NamedTuple):
    """Size of an image that is read window by window.

    Attributes:
        shape: Height and width in pixels.
    """

    shape: tuple[int, int]


@dataclass(frozen=True)
class BandSource(RasterSource):
    """An image of any number of bands, whose tiles are rasters with the original values."""

    @property
    def suffix(self) -> str:
        """Suffix of the tiles cut from the image."""
        return '.tif'

    @property
    def fingerprint(self) -> str:
        """Text that changes with the file, bands and no data, but not with the stretch."""
        settings = (self.size, self.stamp, self.to_rgb.bands, self.to_rgb.nodata)
        return ':'.join(map(str, (self.member, *settings)))

    def read_pixels(self) -> _Extent:
        """Return the size only, since windows are read one by one."""
        try:
            info = raster_info(self.root / self.member)
        except ValueError as error:
            raise SourceError(str(error)) from error
        return _Extent((info.height, info.width))

    def write_tile(self, path: Path, pixels: _Extent, window: Window) -> None:
        """Write a window as GeoTIFF, cropped to the image."""
        right, bottom = min(window.x1, pixels.shape[1]), min(window.y1, pixels.shape[0])
        try:
            ends = (window.x0, window.y0, right, bottom)
            copy_window(self.root / self.member, path, ends)
        except ValueError as error:
            raise SourceError(str(error)) from error


@dataclass(frozen=True)
class MaskSource(SourceFile):
    """A mask of any kind that opens as class ids, with 255 also where its image has no data."""

    plan: ClassPlan
    image: RasterSource
    info: RasterInfo
    warped: bool
    upright: bool

    @property
    def fingerprint(self) -> str:
        """Text that changes with the file, the classes and how the mask is fitted to its image."""
        plan = self.plan
        settings = (plan.values, plan.coloured, plan.tolerance, plan.threshold, self.warped)
        return ':'.join(map(str, (super().fingerprint, *settings, self.upright, *plan.excluded)))

    def open_image(self) -> Image.Image:
        """Decode the ids as a grey image; see :meth:`SourceFile.open_image`."""
        to_rgb = self.image.to_rgb
        try:
            path = self.root / self.member
            ids = self.plan.encode(read_mask(path, self.info, self.warped, self.upright))
            if self.info.transparent or to_rgb.nodata is not None:
                valid = read_rgb(self.image.root / self.image.member, to_rgb).valid
                if valid is not None:
                    ids[~valid] = IGNORED
        except ValueError as error:
            raise SourceError(str(error)) from error
        return Image.fromarray(ids)


def choose_stretch(
    survey: Survey,
    bands: Sequence[int] | None,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    percentiles: tuple[float, float] = PERCENTILES,
    nodata: float | None = None,
    ask: bool = True,
    kind: Callable[..., RasterToRGB] = RasterToRGB,
) -> RasterToRGB:
    """Choose how images become RGB or bands: as they are, or with one stretch for all of them.

    Args:
        survey: Survey of the images.
        bands: See :class:`~.rasters.levels.RasterToRGB`.
        low: Likewise, or one number for all bands. None estimates the stretch of deep images.
        high: Likewise.
        percentiles: See :func:`~.rasters.stretch.estimate_stretch`, as for all that follow.
        nodata: Value of pixels without data.
        ask: Whether a value far from all others is an error.
        kind: Builds the result.

    Raises:
        ValueError: Only one of ``low`` and ``high`` is given, or no stretch can be estimated.
    """
    if low is None and high is None and not survey.needs_stretch:
        return kind(bands, nodata=nodata)
    deep = [p for p in survey.pictures.values() if p.info.deep]
    deep = deep or list(survey.pictures.values())
    chosen = [survey.image_dir / deep[k].name for k in evenly(len(deep), _SAMPLED)]
    if low is None or high is None:
        if low is not None or high is not None:
            raise ValueError(
                'A stretch has two ends: give both --low and --high, or neither and --percentiles.'
            )
        return estimate_stretch(chosen, bands, percentiles, nodata, ask, kind)
    count = len(kind(bands).choose(deep[0].info.bands))
    ends = [list(end) * count if len(end) == 1 else list(end) for end in (low, high)]
    return kind(bands, ends[0], ends[1], nodata)


def plan_conversion(
    survey: Survey, plan: ClassPlan, to_rgb: RasterToRGB, tile: int | None = None
) -> ConversionPlan:
    """Decide what has to be converted.

    Args:
        survey: Survey of images and masks.
        plan: Classes of the masks.
        to_rgb: See :func:`choose_stretch`.
        tile: Side of tiles that the user asks for, in pixels; None decides automatically.

    Raises:
        ValueError: The tile is too small.
    """
    if tile is not None and tile < _SMALLEST_TILE:
        raise ValueError(
            f'--tile {tile} is too small to learn from: choose {_SMALLEST_TILE} or more.'
        )
    infos = [picture.info for picture in survey.pictures.values()]
    virtual = any(picture.name.lower().endswith('.vrt') for picture in survey.pictures.values())
    sides = sorted(min(info.width, info.height) for info in infos)
    side = tile or max(_SMALLEST_TILE, min(TILE, sides[len(sides) // 2]))
    masked = [survey.pictures[stem].info for stem in survey.masks]
    for asked, reason in (
        (tile is not None, f'tiles of {side} px are asked for'),
        (
            survey.longest_side > LONGEST_SIDE,
            f'images of up to {survey.longest_side} px are larger than {LONGEST_SIDE} px, and '
            f'would be decoded whole for each crop: cut into tiles of {side} px',
        ),
    ):
        if asked:
            return ConversionPlan(True, True, side, reason)
    if virtual:
        return ConversionPlan(
            True, True, None, 'VRT files stand for pixels that lie elsewhere: fetched once'
        )
    in_place = isinstance(to_rgb, RasterToBands)  # training loads them as prediction does
    for asked, reason in (
        ()
        if in_place
        else (
            (
                to_rgb.low is not None,
                'pixels are stretched to 8-bit RGB'
                if not survey.needs_stretch
                else 'pixels of more than 8 bits are stretched to 8-bit RGB',
            ),
            (to_rgb.bands is not None, f'bands {to_rgb.bands} are taken as red, green and blue'),
            (
                not all(info.plain for info in infos),
                'the loaders of training would read TIFF, CMYK or pictures with an orientation in '
                'EXIF otherwise than prediction, or slowly: written once as PNG',
            ),
            (
                any(info.transparent for info in masked) or to_rgb.nodata is not None,
                'pixels without data are ignored in the masks',
            ),
        )
    ):
        if asked:
            return ConversionPlan(True, True, None, reason)
    partly = in_place and (any(i.transparent for i in masked) or to_rgb.nodata is not None)
    if partly or not (plan.as_stored and all(mask.direct for mask in survey.masks.values())):
        return ConversionPlan(
            False,
            True,
            None,
            'images can be trained on where they are; masks are written anew, as class ids',
        )
    return ConversionPlan(False, False, None, 'images and masks can be trained on where they are')


def prepare_folder(
    survey: Survey,
    plan: ClassPlan,
    to_rgb: RasterToRGB,
    conversion: ConversionPlan,
    out_dir: Path,
    workers: int = 1,
    console: Console | None = None,
) -> PreparedFolder:
    """Convert what has to be converted; results of an earlier run are kept.

    Args:
        survey: Survey of images and masks.
        plan: Classes of the masks.
        to_rgb: Conversion of images to RGB or bands.
        conversion: What to convert.
        out_dir: Output folder for ``img_dir`` and ``ann_dir``.
        workers: Number of processes; each holds one image and its mask in memory.
        console: Console for the progress bar.

    Raises:
        ValueError: ``out_dir`` holds tiles of other settings, or would replace the originals.
    """
    for folder in filter(None, (survey.image_dir, survey.mask_dir)):
        for made, name in (
            (conversion.convert_images, 'img_dir'),
            (conversion.convert_masks, 'ann_dir'),
        ):
            target, original = (out_dir / name).resolve(), folder.resolve()
            if made and (target.is_relative_to(original) or original.is_relative_to(target)):
                raise ValueError(
                    f'Converted files would go to {target} and replace originals in {folder}: '
                    'choose another --out.'
                )
    if conversion.convert_images:
        return _converted(survey, plan, to_rgb, conversion.tile, out_dir, workers, console)
    assert survey.mask_dir is not None
    mask_dir = survey.mask_dir
    presence = survey.presence(plan)
    problems: list[str] = []
    if conversion.convert_masks:
        mask_dir = out_dir / 'ann_dir'
        for stem in survey.masks:
            target = mask_dir / f'{stem}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            _, labels = _sources(survey, survey.pictures[stem], plan, to_rgb)
            assert labels is not None
            try:
                ids = np.asarray(labels.open_image())
            except SourceError as error:
                problems.append(str(error))
                presence.pop(stem)
                continue
            presence[stem] = _pixels(ids)
            write_png(target, ids)
    labelled = {stem: ids for stem, ids in presence.items() if ids}
    return PreparedFolder(
        survey.image_dir,
        mask_dir,
        labelled,
        [stem for stem in survey.pictures if stem not in labelled],
        {stem: picture.name for stem, picture in survey.pictures.items()},
        survey.typical_side,
        len(survey.sizes) == 1,
        problems,
    )


def _converted(
    survey: Survey,
    plan: ClassPlan,
    to_rgb: RasterToRGB,
    tile: int | None,
    out_dir: Path,
    workers: int,
    console: Console | None,
) -> PreparedFolder:
    jobs = [_job(survey, picture, plan, to_rgb) for picture in survey.pictures.values()]
    decoder = IdLabels(frozenset(range(IGNORED)), IGNORED)  # all: classes may be added
    report = convert(jobs, out_dir, Cut(tile), decoder, workers, console=console)
    labels: dict[str, Path] = {}
    unlabelled: list[str] = []
    for item in report.done:
        names = [str(PurePosixPath(item.subset) / name) for name in item.names]
        if item.labelled:
            labels.update({name: out_dir / 'ann_dir' / f'{name}.png' for name in names})
        else:
            unlabelled += names
    paths = list(labels.values())
    counted = map_threaded(lambda path: _pixels(np.asarray(Image.open(path))), paths)
    pixels_of = dict(zip(labels, counted, strict=True))
    presence = {name: pixels for name, pixels in pixels_of.items() if pixels}
    unlabelled += [name for name in pixels_of if name not in presence]
    empty = []
    infos = [picture.info for picture in survey.pictures.values()]
    if to_rgb.nodata is not None or any(info.transparent for info in infos):
        folder = out_dir / 'img_dir'
        empty = [name for name in unlabelled if _is_empty(folder, name, to_rgb)]
    return PreparedFolder(
        out_dir / 'img_dir',
        out_dir / 'ann_dir',
        presence,
        sorted(set(unlabelled) - set(empty)),
        {},
        tile or survey.typical_side,
        tile is not None or len(survey.sizes) == 1,
        report.failures,
        [*report.notes, *([f'{len(empty)} tiles without data are left out'] if empty else [])],
    )


def _job(survey: Survey, picture: Picture, plan: ClassPlan, to_rgb: RasterToRGB) -> Job:
    image, labels = _sources(survey, picture, plan, to_rgb)
    stem = PurePosixPath(picture.stem)
    subset = '' if stem.parent == PurePosixPath('.') else stem.parent.as_posix()
    return Job(stem.name, subset, (image,), None if labels is None else (labels,))


def _sources(
    survey: Survey, picture: Picture, plan: ClassPlan, to_rgb: RasterToRGB
) -> tuple[RasterSource, MaskSource | None]:
    """Return the source of an image and of its mask, if it has one."""
    kind = BandSource if isinstance(to_rgb, RasterToBands) else RasterSource
    image = kind(*_file(survey.image_dir, picture.name), to_rgb)
    if picture.stem not in survey.masks or survey.mask_dir is None:
        return image, None
    mask = survey.masks[picture.stem]
    source = _file(survey.mask_dir, mask.name)
    fit = (picture.info, survey.warp_masks, mask.turned)
    return image, MaskSource(*source, plan, image, *fit)


def _file(folder: Path, name: str) -> tuple[Path, str, int, int]:
    status = (folder / name).stat()
    return folder, name, status.st_size, status.st_mtime_ns


def _pixels(ids: np.ndarray) -> dict[int, int]:
    """Count the pixels of each class id in an 8-bit mask."""
    counts = np.bincount(ids.ravel(), minlength=256)[:IGNORED]
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _is_empty(folder: Path, name: str, to_rgb: RasterToRGB) -> bool:
    """Return whether no pixel of a tile has data."""
    if isinstance(to_rgb, RasterToBands):
        valid = read_rgb(folder / f'{name}.tif', to_rgb).valid
    else:
        valid = read_valid(folder / f'{name}.png')
    return valid is not None and not valid.any()
