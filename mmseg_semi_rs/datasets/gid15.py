# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""GID-15, the fine land-cover classes of the Gaofen Image Dataset."""

from __future__ import annotations

from typing import ClassVar

from mmseg.registry import DATASETS

from ..classes import METAINFO
from .described_dataset import DescribedDataset


@DATASETS.register_module()
class GID15Dataset(DescribedDataset):
    """GID-15 (Tong et al., Remote Sensing of Environment 2020): 10 scenes, 6800 x 7200, 4 m.

    Gaofen-2 images. ``tools/dataset_converters/gid15.py`` writes the layout. Ids on disk: 0 to 14
    in the order of ``classes``, 255 for unlabelled ground (black in the published labels) and
    padding. Id 0 is industrial land, so ``reduce_zero_label`` must stay False. Other copies of the
    data set number the classes from 1 and use 0 for unlabelled ground; they do not fit.
    """

    METAINFO: ClassVar[dict] = METAINFO['gid15']
