# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Mars-Seg: terrain seen by the Mars Exploration Rovers and Curiosity."""

from __future__ import annotations

from typing import ClassVar

from mmseg.registry import DATASETS

from ..classes import METAINFO
from .described_dataset import DescribedDataset


@DATASETS.register_module()
class MERDataset(DescribedDataset):
    """MER part of Mars-Seg (Li et al., TGRS 2022): 1064 grey frames of Spirit and Opportunity.

    1024 x 1024, seen from the ground. ``tools/dataset_converters/mars.py`` writes the layout. Ids
    on disk: 0 to 8 in the order of ``classes``, 255 for unlabelled pixels and padding. Id 0 is
    soil, so ``reduce_zero_label`` must stay False. *Unknown* (the rover itself) and *background*
    (sky, far hills) are ordinary classes.
    """

    METAINFO: ClassVar[dict] = METAINFO['mer']


@DATASETS.register_module()
class MSLDataset(DescribedDataset):
    """MSL part of Mars-Seg (Li et al., TGRS 2022): colour frames of Curiosity's mast camera.

    560 x 500 pixels (width x height). Semi-supervised work uses 3927 of the 4148 published frames.
    Classes and ids are those of :class:`MERDataset`.
    """

    METAINFO: ClassVar[dict] = METAINFO['msl']
