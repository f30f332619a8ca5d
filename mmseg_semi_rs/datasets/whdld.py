# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""WHDLD, the Wuhan Dense Labeling Dataset."""

from __future__ import annotations

from typing import Any, ClassVar

from mmseg.registry import DATASETS

from ..classes import METAINFO
from .described_dataset import DescribedDataset


@DATASETS.register_module()
class WHDLDDataset(DescribedDataset):
    """WHDLD (Shao et al., Remote Sensing 2018 and 2020): 4940 tiles, 256 x 256, 2 m.

    Gaofen-1 and Ziyuan-3 images of Wuhan. ``tools/dataset_converters/whdld.py`` writes the layout.
    Ids on disk: 1 building, 2 road, 3 pavement, 4 vegetation, 5 bare soil, 6 water, in the order of
    the published colours; 0 is ignored (clean labels have none). ``reduce_zero_label`` is therefore
    True here: with False every class moves up by one, and water becomes an id without a class.

    Args:
        reduce_zero_label: Whether id 0 is ignored and the other ids are reduced by one.
        **kwargs: Passed on to :class:`DescribedDataset`.
    """

    METAINFO: ClassVar[dict] = METAINFO['whdld']

    def __init__(self, reduce_zero_label: bool = True, **kwargs: Any) -> None:
        super().__init__(reduce_zero_label=reduce_zero_label, **kwargs)
