# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the package's own data sets have in common."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset


class DescribedDataset(BaseSegDataset):
    """mmseg's dataset of PNG tiles whose ``concepts`` follow the chosen classes.

    Sub-classes give ``METAINFO`` with ``classes``, ``palette`` and ``concepts`` (what a person
    would call each class, for the prompts of vision-language models).

    Args:
        metainfo: ``classes`` chooses among the classes; palette and concepts follow, unless they
            are given too.
        img_suffix:
        seg_map_suffix:
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
        if set(chosen) <= set(known):  # otherwise the parent says what is wrong
            names, colours = self.METAINFO['concepts'], self.METAINFO['palette']
            metainfo.setdefault('palette', [colours[known.index(name)] for name in chosen])
            metainfo.setdefault('concepts', [list(names[known.index(name)]) for name in chosen])
        super().__init__(
            metainfo=metainfo, img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs
        )
