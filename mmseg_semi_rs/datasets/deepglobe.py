# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""DeepGlobe Land Cover."""

from __future__ import annotations

from typing import Any, ClassVar

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class DeepGlobeDataset(BaseSegDataset):
    """DeepGlobe Land Cover Classification (CVPR Workshops 2018): 803 images, 2448 x 2448, 0.5 m.

    ``tools/dataset_converters/deepglobe.py`` writes the layout. Ids on disk: 0 urban,
    1 agriculture, 2 rangeland, 3 forest, 4 water, 5 barren, 6 unknown (clouds and other), 255
    padding. Id 0 is a class, so ``reduce_zero_label`` stays False, and padding must not be 0.

    *Unknown* is no land cover: the challenge leaves it out of its score, and by default it is
    ignored here in training and in evaluation. ``train_unknown=True`` makes it the seventh class,
    as some published code does.

    Args:
        train_unknown (bool): Whether id 6 is a class. Defaults to False.
        img_suffix (str): Defaults to ``'.png'``.
        seg_map_suffix (str): Defaults to ``'.png'``.
        **kwargs: Passed on to ``BaseSegDataset``. ``metainfo=dict(classes=...)`` chooses among the
            classes and overrules ``train_unknown``.
    """

    METAINFO: ClassVar[dict] = dict(
        classes=('urban', 'agriculture', 'rangeland', 'forest', 'water', 'barren', 'unknown'),
        palette=[
            [0, 255, 255],
            [255, 255, 0],
            [255, 0, 255],
            [0, 255, 0],
            [0, 0, 255],
            [255, 255, 255],
            [0, 0, 0],
        ],
        # What a person would call the class, for the prompts of vision-language models.
        concepts=[
            ['urban land', 'built-up area', 'houses', 'city blocks', 'industrial area', 'streets'],
            ['agriculture land', 'farmland', 'cropland', 'plowed field', 'orchard', 'vineyard'],
            ['rangeland', 'grassland', 'meadow', 'pasture', 'shrubland', 'savanna'],
            ['forest', 'woodland', 'dense trees', 'tree canopy', 'clear cut in a forest'],
            ['water', 'river', 'lake', 'ocean', 'pond', 'wetland'],
            ['barren land', 'bare soil', 'rock', 'desert', 'beach', 'mountain without vegetation'],
            ['unknown', 'clouds'],
        ],
    )

    def __init__(
        self,
        train_unknown: bool = False,
        img_suffix: str = '.png',
        seg_map_suffix: str = '.png',
        **kwargs: Any,
    ) -> None:
        metainfo = dict(kwargs.pop('metainfo', None) or {})
        known = self.METAINFO['classes']
        chosen = tuple(metainfo.setdefault('classes', known if train_unknown else known[:-1]))
        if set(chosen) <= set(known):  # otherwise the parent says what is wrong
            names = self.METAINFO['concepts']
            metainfo.setdefault('concepts', [list(names[known.index(name)]) for name in chosen])
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, metainfo=metainfo, **kwargs
        )
