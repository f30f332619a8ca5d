# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of the data before the first step.

A wrong file is reported here, in one sentence with its path and the offending values, instead of by
a stack trace from a worker hours later. Labels of unlabelled images are never opened.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..datasets.semi_dataset import SemiDataset, fill_split
from ..datasets.tiles import loading_steps
from ..rasters.gdal import open_raster
from ..utils.commands import command
from ..utils.errors import RunStoppedError, one_line
from ..utils.files import read_list
from ..utils.progress import map_threaded
from ..utils.randomness import Draw
from .decoded_images import DecodedImages

LISTED = 10  # maximum number of problems in an error message

_EXIF_ORIENTATION = 0x0112
_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


@dataclass
class DatasetSummary:
    """Statistics of a dataset.

    Attributes:
        name: Class of the dataset, and its list.
        images: Number of samples.
        duplicates: Samples whose image occurs earlier in the list.
        sizes: Number of images by (width, height), most frequent first.
        class_pixels: Pixels of each class; empty if labels were not read.
        ignored_pixels: Pixels without a class.
    """

    name: str
    images: int
    duplicates: int = 0
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    class_pixels: dict[str, int] = field(default_factory=dict)
    ignored_pixels: int = 0

    @property
    def class_shares(self) -> dict[str, float]:
        """Share of each class among the pixels that have one, in [0, 1]."""
        labelled = max(1, sum(self.class_pixels.values()))
        return {name: count / labelled for name, count in self.class_pixels.items()}

    @property
    def ignored_share(self) -> float:
        """Share of pixels without a class, in [0, 1]."""
        return self.ignored_pixels / max(1, self.ignored_pixels + sum(self.class_pixels.values()))

    @property
    def absent_classes(self) -> list[str]:
        """Classes without a single pixel."""
        return [name for name, count in self.class_pixels.items() if count == 0]

    def __str__(self) -> str:
        sizes = ', '.join(f'{count} of {w} x {h}' for (w, h), count in list(self.sizes.items())[:3])
        if len(self.sizes) > 3:
            sizes += f', {len(self.sizes) - 3} other sizes'
        lines = [f'{self.name}: {self.images} images ({sizes})']
        if self.duplicates:
            lines.append(f'  {self.duplicates} of them occur more than once')
        if self.class_pixels:
            shares = ', '.join(f'{n} {share:.1%}' for n, share in self.class_shares.items())
            lines.append(f'  {shares}; ignored {self.ignored_share:.1%} of all pixels')
        if self.class_pixels and self.absent_classes:
            absent = ', '.join(self.absent_classes)
            lines.append(f'  WARNING: no pixel of {absent}: these masks neither teach nor score it')
        return '\n'.join(lines)


@dataclass
class SemiSummary:
    """Statistics of a labelled and an unlabelled dataset."""

    labelled: DatasetSummary
    unlabelled: DatasetSummary | None

    def __str__(self) -> str:
        lines = [f'labelled   {self.labelled}']
        if self.unlabelled is not None:
            lines.append(f'unlabelled {self.unlabelled}')
            total = self.labelled.images + self.unlabelled.images
            lines.append(f'labelled share: {self.labelled.images / max(1, total):.2%} of {total}')
        return '\n'.join(lines)


@dataclass
class _Sample:
    """One sample as its dataset describes it, with the dataset's rule for ids."""

    image: str
    label: str | None
    ids: _IdRule
    backend_args: dict | None


@dataclass(frozen=True)
class _IdRule:
    """How raw ids become class ids: mmseg's ``LoadAnnotations`` as a table."""

    num_classes: int
    ignore_index: int
    reduce_zero_label: bool
    label_map: tuple[tuple[int, int], ...] | None

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Class id of each raw uint8 id, and whether it is a class or ignored."""
        raw = np.arange(256)
        reduced = raw
        if self.reduce_zero_label:  # 0 becomes ignored explicitly, not by integer wrap-around
            reduced = np.where(raw == 0, 255, np.where(raw == 255, 255, raw - 1))
        final = reduced.copy()
        for old, new in self.label_map or ():
            final[reduced == old] = new
        return final, (final < self.num_classes) | (final == self.ignore_index)

    def describe(self) -> str:
        last = self.num_classes - 1 if self.label_map is None else len(self.label_map) - 1
        first = 1 if self.reduce_zero_label else 0
        ignored = f'0 or {self.ignore_index}' if self.reduce_zero_label else f'{self.ignore_index}'
        return f'{first}..{first + last} and {ignored} (ignored)'


@dataclass
class _Finding:
    """Result of checking one sample."""

    problems: list[str] = field(default_factory=list)
    missing: int = 0
    size: tuple[int, int] | None = None
    pixels: np.ndarray | None = None


def check_dataset_paths(cfg: Mapping[str, Any], name: str = 'dataset') -> None:
    """Check that the lists and folders in a dataset *config* exist, before it is built.

    mmseg itself stops with a bare assertion, or uses the whole folder if no list is given.

    Args:
        cfg: Config of a dataset; wrappers (``labelled``, ``unlabelled``, ``dataset``, ``datasets``)
            are followed.
        name: Name of the config in messages.

    Raises:
        FileNotFoundError: If a path does not exist; the first is named.
        ValueError: If a list is empty, or begins with a byte order mark that its dataset would not
            skip.
    """
    cfg = fill_split(cfg)
    for key in ('labelled', 'unlabelled', 'dataset'):
        if isinstance(cfg.get(key), Mapping):
            check_dataset_paths(cfg[key], f'{name}.{key}')
    for number, part in enumerate(cfg.get('datasets') or ()):
        if isinstance(part, Mapping):
            check_dataset_paths(part, f'{name}.datasets[{number}]')
    if cfg.get('backend_args') or '://' in str(cfg.get('data_root')):
        return  # not a local folder
    root = Path(cfg.get('data_root') or '')
    if cfg.get('data_root') and not root.is_dir():
        raise FileNotFoundError(
            f'{name}.data_root is {root}, which is no folder: convert the data set with '
            f'{command("convert")}, or correct data_root.'
        )
    list_path = root / cfg['ann_file'] if cfg.get('ann_file') else None
    if list_path is not None and not list_path.exists():
        raise FileNotFoundError(
            f'{name}.ann_file is {list_path}, which does not exist: write the lists with '
            f'{command("splits")}, or correct ann_file.'
        )
    if list_path is not None and list_path.is_file():
        if not read_list(list_path):
            raise ValueError(
                f'{name}.ann_file is {list_path}, which is empty: write the lists again with '
                f'{command("splits")}.'
            )
        marked = list_path.read_bytes()[:2] in (b'\xef\xbb', b'\xff\xfe', b'\xfe\xff')
        if marked and str(cfg.get('type')).rpartition('.')[2] != 'FolderDataset':
            raise ValueError(
                f'{name}.ann_file is {list_path}, which begins with a byte order mark, and '
                f'{cfg.get("type")} would take it for a part of the first name: save the list as '
                'UTF-8 without one.'
            )
    for key, prefix in (cfg.get('data_prefix') or {}).items():
        if prefix and not (root / prefix).is_dir():
            raise FileNotFoundError(
                f'{name}.data_prefix.{key} is {root / prefix}, which is no folder: convert the '
                f'data set with {command("convert")}, or correct data_prefix.'
            )


def check_segmentation_dataset(
    dataset: Any,
    with_labels: bool = True,
    name: str | None = None,
    decode_images: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> DatasetSummary:
    """Check the files of a dataset.

    Every image must exist and be readable. With labels, every label file must exist, be readable as
    one channel, have the size of its image and contain only ids that become a class or the ignore
    index under the dataset's ``reduce_zero_label`` and ``label_map``.

    Args:
        dataset: An mmseg ``BaseSegDataset``, or ``ConcatDataset`` / ``RepeatDataset`` around such
            datasets. A repeated dataset is checked once.
        with_labels: Whether to open label files.
        name: Name in messages. Defaults to the class and its list.
        decode_images: Whether to decode whole images, which also finds truncated ones, instead of
            reading only their headers. An image is decoded again only if its file changes.
        workers: Number of threads. Defaults to twice the number of processors, at most 16.
        progress: Whether to show a progress bar.

    Returns:
        Counts, sizes and class shares.

    Raises:
        ValueError: If files are wrong; the first ten problems are listed.
        FileNotFoundError: If all problems are missing files.
    """
    leaves = list(leaves_of(dataset))
    title = name or ', '.join(dict.fromkeys(_title(leaf) for leaf in leaves))
    samples = [sample for leaf in leaves for sample in _samples(leaf, with_labels)]
    if not samples:
        raise ValueError(
            f'{title} is empty: check its ann_file and data_prefix, or write its list with '
            f'{command("splits")}.'
        )
    if with_labels:
        for sample in samples:
            if sample.label is None:
                raise ValueError(
                    f'{title} is to be labelled but {sample.image} has no label path: give its '
                    'dataset a data_prefix with seg_map_path.'
                )

    decoded = DecodedImages(Path(samples[0].image).parent) if decode_images else None

    def examine(sample: _Sample) -> _Finding:
        return _examine(sample, decoded)

    findings = map_threaded(examine, samples, f'checking {title}' if progress else None, workers)
    if decoded is not None:
        decoded.save()
    _raise_problems(title, findings)

    classes = [str(c) for c in leaves[0].metainfo.get('classes') or ()] if with_labels else None
    return _summarise(title, samples, findings, classes)


def check_semi_dataset(
    dataset: Any,
    decode_images: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> SemiSummary:
    """Check a labelled and an unlabelled dataset, and that no image is in both.

    Args:
        dataset: An object with ``labelled`` and ``unlabelled`` (None for supervised training).
        decode_images: See :func:`check_segmentation_dataset`.
        workers: See :func:`check_segmentation_dataset`.
        progress: See :func:`check_segmentation_dataset`.

    Raises:
        ValueError: See :func:`check_segmentation_dataset`; also if the lists overlap.
        FileNotFoundError: See :func:`check_segmentation_dataset`.
    """
    if dataset.unlabelled is not None:
        check_disjoint({'labelled': dataset.labelled, 'unlabelled': dataset.unlabelled})
    labelled = check_segmentation_dataset(
        dataset.labelled, True, None, decode_images, workers, progress
    )
    if dataset.unlabelled is None:
        return SemiSummary(labelled, None)
    unlabelled = check_segmentation_dataset(
        dataset.unlabelled, False, None, decode_images, workers, progress
    )
    return SemiSummary(labelled, unlabelled)


def check_views(dataset: SemiDataset) -> None:
    """Load the first sample of each source, and check that it has the views to train on.

    Faults of a pipeline are thus reported here, and not by a worker or the first step.

    Args:
        dataset: The training dataset.

    Raises:
        ValueError: If a pipeline fails, or does not give a labelled, a weak or a strong view.
    """
    firsts = {'labelled': 0, 'unlabelled': len(dataset.labelled)}
    for name, index in firsts.items():
        if index == len(dataset):
            continue
        try:
            sample = dataset[Draw(index, (0, 0, 0))]
            views = sample['inputs'] if isinstance(sample.get('inputs'), Mapping) else {}
        except RunStoppedError:
            raise
        except Exception as error:  # any transform may raise any error
            raise ValueError(
                f'The pipeline of the {name} images fails on '
                f'{dataset.get_data_info(index)["img_path"]} ({type(error).__name__}: '
                f'{one_line(error)}): correct its transforms.'
            ) from error
        made = sorted(view for view, image in views.items() if image is not None)
        if name == 'unlabelled' and ('weak' not in made or not any('strong' in v for v in made)):
            raise ValueError(
                f'The pipeline of the unlabelled images gives the views {made}, and "weak" and '
                '"strong" are needed: end it with a MultiBranch that packs both by PackSemiInputs, '
                'or take a stock pipeline that ends with PackSegInputs.'
            )
        if name == 'labelled' and (
            'sup' not in made or 'gt_sem_seg' not in sample['data_samples']['sup']
        ):
            raise ValueError(
                f'The pipeline of the labelled images gives the views {made}, and "sup" with its '
                'mask is needed: begin it with LoadImageFromFile and LoadAnnotations, and end it '
                'with a MultiBranch that packs "sup" by PackSemiInputs, or with PackSegInputs.'
            )


def check_disjoint(datasets: Mapping[str, Any]) -> None:
    """Check that no two datasets share an image.

    Args:
        datasets: Datasets by their name in messages, e.g. labelled and validation images.

    Raises:
        ValueError: If two do; the message names both, the number of shared images and the first
            ten.
    """
    images = {
        name: {
            _identity(sample.image): sample.image
            for leaf in leaves_of(dataset)
            for sample in _samples(leaf, False)
        }
        for name, dataset in datasets.items()
    }
    names = list(images)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = sorted(images[first].keys() & images[second].keys())
            if shared:
                raise ValueError(
                    f'{len(shared)} images are both in the {first} list '
                    f'({list_of(datasets[first])}) and in the {second} list '
                    f'({list_of(datasets[second])}): write the lists again with '
                    f'{command("splits")} ({_listed([images[first][key] for key in shared])}).'
                )


def image_lists(dataset: Any) -> dict[str, str]:
    """Describe the images of a training, independently of their folder.

    Args:
        dataset: As for :func:`check_segmentation_dataset`, or one with ``labelled`` and
            ``unlabelled``.

    Returns:
        By source, the number of images and a digest of their names.
    """
    parts = {name: getattr(dataset, name, None) for name in ('labelled', 'unlabelled')}
    if parts['labelled'] is None:
        parts = {'labelled': dataset}
    lists = {}
    for name, part in parts.items():
        if part is not None:
            stems = [Path(s.image).stem for leaf in leaves_of(part) for s in _samples(leaf, False)]
            digest = hashlib.sha256('\n'.join(stems).encode(errors='replace')).hexdigest()
            lists[name] = f'{len(stems)} images (names {digest[:12]})'
    return lists


def leaves_of(dataset: Any) -> Iterator[Any]:
    """Yield the datasets inside wrappers."""
    if getattr(dataset, 'datasets', None) is not None:
        for part in dataset.datasets:
            yield from leaves_of(part)
    elif getattr(dataset, 'dataset', None) is not None:
        yield from leaves_of(dataset.dataset)
    else:
        yield dataset


def _title(leaf: Any) -> str:
    return f'{type(leaf).__name__} ({list_of(leaf)})'


def list_of(dataset: Any) -> str:
    """List or folder from which a dataset, or the first one inside it, takes its images."""
    leaf = next(leaves_of(dataset))
    prefix = getattr(leaf, 'data_prefix', None) or {}
    return str(getattr(leaf, 'ann_file', '') or prefix.get('img_path', ''))


def _samples(leaf: Any, with_labels: bool) -> Iterator[_Sample]:
    if hasattr(leaf, 'full_init'):
        leaf.full_init()
    label_map = getattr(leaf, 'label_map', None)
    reduces = getattr(leaf, 'reduce_zero_label', False)
    pipeline = getattr(getattr(leaf, 'pipeline', None), 'transforms', ()) if with_labels else ()
    for step in loading_steps(pipeline):
        if getattr(step, 'reduce_zero_label', None) not in (None, reduces):
            raise ValueError(
                f'{_title(leaf)} has reduce_zero_label={reduces}, but {type(step).__name__} in its '
                f'pipeline {step.reduce_zero_label}: leave it out there.'
            )
    rule = _IdRule(
        len(leaf.metainfo.get('classes') or ()) or 256,
        getattr(leaf, 'ignore_index', 255),
        bool(reduces),
        None if label_map is None else tuple(sorted(label_map.items())),
    )
    for index in range(len(leaf)):
        info = leaf.get_data_info(index)
        label = info.get('seg_map_path') if with_labels else None
        yield _Sample(info['img_path'], label, rule, getattr(leaf, 'backend_args', None))


def _identity(path: str) -> str:
    return path if '://' in path else os.path.realpath(path)


def _summarise(
    title: str,
    samples: Sequence[_Sample],
    findings: Sequence[_Finding],
    classes: Sequence[str] | None,
) -> DatasetSummary:
    """Combine the results of all samples; ``classes`` is None if no label was opened."""
    summary = DatasetSummary(title, len(samples))
    summary.duplicates = len(samples) - len({_identity(sample.image) for sample in samples})
    summary.sizes = dict(Counter(f.size for f in findings if f.size is not None).most_common())
    if classes is not None:
        totals = sum((f.pixels for f in findings if f.pixels is not None), np.zeros(256, np.int64))
        summary.class_pixels = {label: int(totals[k]) for k, label in enumerate(classes)}
        summary.ignored_pixels = int(totals.sum()) - sum(summary.class_pixels.values())
        if classes and not any(summary.class_pixels.values()):
            raise ValueError(
                f'{title} has {summary.ignored_pixels} pixels in {summary.images} labels, and all '
                'are ignored, so that there is nothing to learn: correct the labels, or the ids '
                'that the dataset takes for classes (reduce_zero_label, label_map, ignore_index).'
            )
    return summary


def _raise_problems(title: str, findings: Sequence[_Finding]) -> None:
    problems = [problem for finding in findings for problem in finding.problems]
    if not problems:
        return
    missing = sum(finding.missing for finding in findings)
    message = (
        f'{title} has {len(problems)} {"problem" if len(problems) == 1 else "problems"}: '
        f'{_listed(problems)}; convert the data set again or correct the lists '
        f'({command("convert")}, {command("splits")}).'
    )
    raise FileNotFoundError(message) if missing == len(problems) else ValueError(message)


def _listed(items: Sequence[str]) -> str:
    more = len(items) - LISTED
    return '; '.join(items[:LISTED]) + (f'; and {more} more' if more > 0 else '')


def _open(path: str, backend_args: dict | None) -> Image.Image:
    if not backend_args and '://' not in path:
        return Image.open(path)
    from mmengine import fileio

    return Image.open(io.BytesIO(fileio.get(path, backend_args=backend_args)))


def _exists(path: str, backend_args: dict | None) -> bool:
    if not backend_args and '://' not in path:
        return Path(path).is_file()
    from mmengine import fileio

    return bool(fileio.exists(path, backend_args=backend_args))


def _image_size(path: str, backend_args: dict | None, decode: bool) -> tuple[int, int]:
    """Width and height as the loader sees them, with photographs turned upright."""
    try:
        image = _open(path, backend_args)
    except UnidentifiedImageError:  # many bands or bits: use the loader's decoder
        size = _raster_size(path)
        if size is None:
            raise
        return size
    with image:
        if decode:
            image.load()
        width, height = image.size
        # only photographs are turned, and only their Exif data is read without decoding the image
        photograph = image.format in ('JPEG', 'MPO')
        turned = photograph and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)


def _raster_size(path: str) -> tuple[int, int] | None:
    import cv2

    with suppress(ImportError), open_raster(path) as raster:
        raster.read()
        return raster.width, raster.height
    pixels = cv2.imread(path, cv2.IMREAD_UNCHANGED) if Path(path).is_file() else None
    return None if pixels is None else (pixels.shape[1], pixels.shape[0])


def _checked_size(sample: _Sample, decoded: DecodedImages | None) -> tuple[int, int]:
    """Width and height of an image, which is decoded unless it is known to be complete."""
    if decoded is None or sample.backend_args or '://' in sample.image:
        return _image_size(sample.image, sample.backend_args, decode=decoded is not None)
    known = decoded.size_of(sample.image)
    if known is None:
        known = _image_size(sample.image, None, decode=True)
        decoded.add(sample.image, known)
    return known


def _examine(sample: _Sample, decoded: DecodedImages | None) -> _Finding:
    finding = _Finding()
    if not _exists(sample.image, sample.backend_args):
        finding.problems.append(f'image {sample.image} does not exist')
        finding.missing += 1
    else:
        try:
            finding.size = _checked_size(sample, decoded)
        except Exception as error:  # Pillow raises many kinds of errors for damaged files
            finding.problems.append(f'image {sample.image} cannot be read ({_short(error)})')
    if sample.label is None:
        return finding
    if not _exists(sample.label, sample.backend_args):
        finding.problems.append(f'label {sample.label} does not exist')
        finding.missing += 1
        return finding
    try:
        with _open(sample.label, sample.backend_args) as image:
            ids = np.array(image)
    except Exception as error:
        finding.problems.append(f'label {sample.label} cannot be read ({_short(error)})')
        return finding
    _examine_label(finding, sample, ids)
    return finding


def _examine_label(finding: _Finding, sample: _Sample, ids: np.ndarray) -> None:
    """Check decoded ids (H, W) against the size of the image and the classes, and count them."""
    if ids.ndim != 2:
        finding.problems.append(
            f'label {sample.label} has {ids.shape[2]} channels, one channel of class ids is needed'
        )
        return
    if ids.dtype.kind not in 'bui':
        finding.problems.append(f'label {sample.label} holds {ids.dtype} numbers, not class ids')
        return
    size = (ids.shape[1], ids.shape[0])
    if finding.size is not None and size != finding.size:
        finding.problems.append(
            f'label {sample.label} is {size[0]} x {size[1]} pixels but its image '
            f'{finding.size[0]} x {finding.size[1]}'
        )
    if ids.dtype == np.uint8:
        counts = np.bincount(ids.ravel(), minlength=256)
        values = np.flatnonzero(counts)
    else:  # 16 or 32 bits: mmseg would fold 256 into 0
        values, value_counts = np.unique(ids.astype(np.int64), return_counts=True)
        inside = (values >= 0) & (values < 256)
        counts = np.zeros(256, np.int64)
        counts[values[inside]] = value_counts[inside]
    final, allowed = sample.ids.table()
    wrong = [int(v) for v in values if not 0 <= v < 256 or not allowed[v]]
    if wrong:
        shown = ', '.join(map(str, wrong[:8])) + (', ...' if len(wrong) > 8 else '')
        finding.problems.append(
            f'label {sample.label} has ids {shown} outside {sample.ids.describe()}'
        )
        return
    finding.pixels = np.bincount(final, weights=counts, minlength=256).astype(np.int64)


def _short(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'.split('\n')[0]
