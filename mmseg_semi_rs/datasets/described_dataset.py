# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Base class of the package's own data sets."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset


class DescribedDataset(BaseSegDataset):
    """mmseg's dataset of PNG tiles, with ``concepts`` that follow the selected classes.

    Subclasses define ``METAINFO`` with ``classes``, ``palette`` and ``concepts`` (everyday names of
    each class, for the prompts of vision-language models).

    Args:
        metainfo: ``classes`` selects classes; palette and concepts follow unless given as well.
        img_suffix: Suffix of the images.
        seg_map_suffix: Suffix of the masks.
        **kwargs: Passed on to ``BaseSegDataset``.
    """

    def __init__(
        self,
        metainfo: dict | None = None,
        img_suffix: str = '.png',
        seg_map_suffix: str = '.png',
        **kwargs: Any,
    ) -> None:
        metainfo = dict(metainfo or {})
        known = self.METAINFO['classes']
        chosen = metainfo.get('classes', known)
        if set(chosen) <= set(known):  # otherwise the parent raises an error
            names, colours = self.METAINFO['concepts'], self.METAINFO['palette']
            metainfo.setdefault('palette', [colours[known.index(name)] for name in chosen])
            metainfo.setdefault('concepts', [list(names[known.index(name)]) for name in chosen])
        super().__init__(
            metainfo=metainfo, img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs
        )
