# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""DeepGlobe Land Cover."""

from __future__ import annotations

from typing import Any, ClassVar

from mmseg.registry import DATASETS

from ..classes import METAINFO
from .described_dataset import DescribedDataset


@DATASETS.register_module()
class DeepGlobeDataset(DescribedDataset):
    """DeepGlobe Land Cover Classification (CVPR Workshops 2018): 803 images, 2448 x 2448, 0.5 m.

    ``tools/dataset_converters/deepglobe.py`` writes the layout. Ids on disk: 0 urban, 1
    agriculture, 2 rangeland, 3 forest, 4 water, 5 barren, 6 unknown (clouds and other), 255
    padding. Id 0 is a class, so ``reduce_zero_label`` must stay False and padding must not be 0.

    *Unknown* is not a land cover: the challenge leaves it out of its score, and by default it is
    ignored here in training and evaluation. ``train_unknown=True`` makes it the seventh class, as
    some published code does.

    Args:
        train_unknown: Whether id 6 is a class.
        metainfo: ``classes`` selects classes and overrides ``train_unknown``.
        **kwargs: Passed on to ``BaseSegDataset``.
    """

    METAINFO: ClassVar[dict] = METAINFO['deepglobe']

    def __init__(
        self, train_unknown: bool = False, metainfo: dict | None = None, **kwargs: Any
    ) -> None:
        known = self.METAINFO['classes']
        classes = known if train_unknown else known[:-1]
        super().__init__(metainfo={'classes': classes, **(metainfo or {})}, **kwargs)
