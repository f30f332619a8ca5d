# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled images behind one index."""

from __future__ import annotations

from typing import Any

from mmengine.dataset import BaseDataset, ConcatDataset
from mmseg.registry import DATASETS

from ..utils.randomness import Draw, seeded


@DATASETS.register_module()
class SemiDataset(ConcatDataset):
    """Concatenation of a labelled and an unlabelled dataset, with reproducible transforms.

    A :class:`~mmseg_semi_rs.utils.randomness.Draw` index, as ``SemiSampler`` yields it, seeds
    every transform, so augmentation does not depend on which worker runs it, and a resumed
    training sees the very images an uninterrupted one would have seen. A plain int index is passed
    through unseeded.

    Args:
        labelled (dict | BaseDataset): Images with masks.
        unlabelled (dict | BaseDataset, optional): Images whose masks, if any, are not opened. None
            trains on labelled images alone. Defaults to None.

    Raises:
        ValueError: If a source is empty or the two disagree on their classes.
    """

    def __init__(
        self,
        labelled: dict | BaseDataset,
        unlabelled: dict | BaseDataset | None = None,
    ) -> None:
        built = {
            name: DATASETS.build(source) if isinstance(source, dict) else source
            for name, source in (('labelled', labelled), ('unlabelled', unlabelled))
            if source is not None
        }
        for name, source in built.items():
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
        super().__init__(list(built.values()), ignore_keys=['label_map', 'reduce_zero_label'])

    @property
    def source_sizes(self) -> list[int]:
        """Number of samples of each source, labelled first; 0 for an absent one."""
        return [len(self.labelled), 0 if self.unlabelled is None else len(self.unlabelled)]

    def __getitem__(self, idx: int) -> Any:
        """Return one transformed sample, seeded when ``idx`` is a ``Draw``."""
        if not isinstance(idx, Draw):
            return super().__getitem__(idx)
        with seeded(*idx.entropy):
            return super().__getitem__(int(idx))
