# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled images behind one index."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.utils.data
from mmengine.dataset import ConcatDataset
from mmengine.logging import print_log
from mmseg.datasets import MultiImageMixDataset
from mmseg.datasets.transforms import RandomMosaic
from mmseg.registry import DATASETS
from PIL import Image, UnidentifiedImageError

from ..utils.errors import RunStoppedError
from ..utils.randomness import Draw, seeded
from .stock_pipelines import branch_source
from .transforms.multi_branch import refuse_untracked


class JoinedDatasets(ConcatDataset):
    """mmengine's ``ConcatDataset``, but also of wrapped datasets, which its constructor refuses.

    Args:
        datasets: At least one dataset; the first one's metainfo is used.
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        torch.utils.data.ConcatDataset.__init__(self, datasets)
        self._metainfo = datasets[0].metainfo
        self._fully_initialized = False
        self.full_init()


# File names of a split's two lists, now and in versions before 0.2.
_LISTS = {
    'labelled': ('labelled.txt', 'labeled.txt'),
    'unlabelled': ('unlabelled.txt', 'unlabeled.txt'),
}


def fill_split(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Set the lists of a split in the config of a :class:`SemiDataset`.

    Args:
        cfg: Arguments of ``SemiDataset``; not changed.

    Returns:
        The same without ``split``. Each source without ``ann_file`` gets ``<split>/labelled.txt``
        or ``<split>/unlabelled.txt`` below its ``data_root``, or, if only that exists, the file
        with the former name ``labeled.txt`` or ``unlabeled.txt``.

    Raises:
        ValueError: If there is a ``split``, but a source is a dataset that is already built.
    """
    filled = dict(cfg)
    split = filled.pop('split', None)
    if split is None:
        return filled
    for name, (current, former) in _LISTS.items():
        source = filled.get(name)
        if source is None:
            continue
        if not isinstance(source, Mapping):
            raise ValueError(
                f'split={split!r} cannot give its list to the {name} dataset, which is built '
                'already: leave split out, or hand over its config.'
            )
        if source.get('ann_file'):
            continue
        folder = Path(source.get('data_root') or '') / split
        only_former = (folder / former).exists() and not (folder / current).exists()
        filled[name] = {**source, 'ann_file': f'{split}/{former if only_former else current}'}
    return filled


@DATASETS.register_module()
class SemiDataset(JoinedDatasets):
    """Concatenation of a labelled and an unlabelled dataset, with reproducible transforms.

    An index of type :class:`~mmseg_semi_rs.utils.randomness.Draw`, as ``SemiSampler`` yields it,
    seeds every transform. Augmentation therefore does not depend on which worker runs it, and a
    resumed training sees the same images as an uninterrupted one. A plain int index is not seeded.
    Pipelines of stock mmseg configs are converted to several views by
    :func:`~mmseg_semi_rs.datasets.stock_pipelines.branch_pipeline`.

    Args:
        labelled: Images with masks: a dataset, its config, the config of a wrapper
            (``ConcatDataset``, ``RepeatDataset``, ``MultiImageMixDataset``), or a list of them,
            which are joined.
        unlabelled: Images whose masks, if any, are not opened; given likewise. Defaults to None,
            which trains on labelled images alone.
        split: Folder of both lists below ``data_root``, such as ``'splits/scene/1-4'``; a source
            with an ``ann_file`` keeps it.
        damaged: What to do if a file can no longer be read: ``'stop'`` ends the training,
            ``'skip'`` takes the next image of the source and logs how many were skipped.
        **inherited: Further arguments of a stock config's dataset, which are left over if a config
            inherits from it without ``_delete_=True``; not used.

    Raises:
        ValueError: If a source is empty, the two have different classes, a ``split`` is given for a
            dataset that is already built, ``damaged`` is unknown, or a transform outside
            ``TrackGeometry`` moves pixels.
        RunStoppedError: In training, if a file cannot be read; the message names it.
        TypeError: If an argument is not one of any dataset.

    Examples:
        >>> tiles = dict(type='DeepGlobeDataset', data_root='data/deepglobe')
        >>> semi = dict(labelled=tiles, unlabelled=tiles, split='splits/scene/1-4')
        >>> fill_split(semi)['unlabelled']['ann_file']
        'splits/scene/1-4/unlabelled.txt'
    """

    INHERITED = frozenset(
        (
            *('data_root', 'data_prefix', 'ann_file', 'img_suffix', 'seg_map_suffix', 'pipeline'),
            *('metainfo', 'reduce_zero_label', 'ignore_index', 'dataset', 'datasets', 'times'),
        )
    )

    def __init__(
        self,
        labelled: Any,
        unlabelled: Any = None,
        split: str | None = None,
        damaged: str = 'stop',
        **inherited: Any,
    ) -> None:
        if damaged not in ('stop', 'skip'):
            raise ValueError(f"SemiDataset damaged={damaged!r} must be 'stop' or 'skip'.")
        self.damaged = damaged
        self._skipped = 0
        unknown = sorted(set(inherited) - self.INHERITED)
        if unknown:
            raise TypeError(
                f'SemiDataset does not know {unknown}: it has labelled and unlabelled, and what '
                'describes images belongs into these.'
            )
        sources = fill_split(dict(labelled=labelled, unlabelled=unlabelled, split=split))
        built = {
            name: _build(branch_source(source, labelled=name == 'labelled'))
            for name, source in sources.items()
            if source is not None
        }
        for name, source in built.items():
            _check_geometry(source)
            source.full_init()
            if len(source) == 0:
                raise ValueError(
                    f'The {name} dataset is empty: check ann_file='
                    f'{getattr(source, "ann_file", None)!r} and data_prefix='
                    f'{getattr(source, "data_prefix", None)!r}.'
                )
        self.labelled = built['labelled']
        self.unlabelled = built.get('unlabelled')
        if self.unlabelled is not None:
            ours, theirs = self.labelled.metainfo['classes'], self.unlabelled.metainfo['classes']
            if tuple(ours) != tuple(theirs):
                raise ValueError(
                    f'The labelled dataset has classes {tuple(ours)} but the unlabelled one '
                    f'{tuple(theirs)}: give both the same dataset type and metainfo.'
                )
        super().__init__(list(built.values()))

    @property
    def source_sizes(self) -> list[int]:
        """Number of samples of each source, labelled first; 0 for an absent one."""
        return [len(self.labelled), 0 if self.unlabelled is None else len(self.unlabelled)]

    def __getitem__(self, idx: int) -> Any:
        """Return one transformed sample, seeded when ``idx`` is a ``Draw``."""
        if not isinstance(idx, Draw):
            return self._load(idx)
        with seeded(*idx.entropy):
            return self._load(int(idx))

    def _load(self, index: int, skipped: int = 0) -> Any:
        """Return one sample; if its file is damaged and skipped, the next one of its source."""
        try:
            return super().__getitem__(index)
        except Exception as error:  # each decoder raises its own errors
            fault = _damaged_file(self.get_data_info(index), index < len(self.labelled))
            if fault is None:
                raise
            first, count = (0, n) if index < (n := len(self.labelled)) else (n, len(self) - n)
            if self.damaged == 'stop' or skipped + 1 == count:
                raise RunStoppedError(
                    f'{fault}, though it could when the training began: restore it and go on with '
                    "--resume, or set train_dataloader.dataset.damaged='skip'."
                ) from error
        self._skipped += 1
        print_log(
            f'{fault}: skipped, the {self._skipped}. time in this process.',
            logger='current',
            level=logging.WARNING,
        )
        return self._load(first + (index - first + 1) % count, skipped + 1)


def _damaged_file(info: dict, labelled: bool) -> str | None:
    """Describe the file of a sample that cannot be read; None if all can."""
    image, mask = info.get('img_path'), info.get('seg_map_path')
    if mask and not labelled and not Path(mask).exists():
        mask = None  # an unlabelled image need not have one
    for path in (image, mask):
        if path and '://' not in str(path):
            try:
                with Image.open(path) as image:
                    image.load()
            except UnidentifiedImageError as error:  # perhaps a raster that only GDAL reads
                if Path(path).suffix.lower() not in ('.tif', '.tiff'):
                    return f'{path} cannot be read ({error})'
            except Exception as error:
                return f'{path} cannot be read ({type(error).__name__}: {error})'
    return None


def _build(source: Any) -> Any:
    """Build a source from a dataset, a config, or a list of them."""
    if isinstance(source, (list, tuple)):
        return JoinedDatasets([_build(part) for part in source])
    return DATASETS.build(source) if isinstance(source, dict) else source


def _check_geometry(source: Any) -> None:
    """Refuse untracked moves of pixels, and mosaics without other images, also inside wrappers."""
    pipeline = getattr(source, 'pipeline', None) or []
    steps = getattr(pipeline, 'transforms', pipeline)
    refuse_untracked(steps)
    alone = not isinstance(source, MultiImageMixDataset)
    if alone and any(isinstance(step, RandomMosaic) for step in steps):
        raise ValueError(
            f'RandomMosaic in the pipeline of {type(source).__name__} has no other images to join: '
            "put it into that of dict(type='MultiImageMixDataset', dataset=..., pipeline=[...])."
        )
    inner = getattr(source, 'dataset', None)
    for part in [*(getattr(source, 'datasets', None) or []), *([] if inner is None else [inner])]:
        _check_geometry(part)
