# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Loading that is done only once per sample."""

from __future__ import annotations

from copy import deepcopy

from mmcv.transforms import BaseTransform, Compose
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KeepInMemory(BaseTransform):
    """Load each sample once and keep it in memory, for data sets that fit into it.

    Decoding is a large part of a small network's step, and the same tiles are used hundreds of
    times. Each worker process keeps its own copy.

    Args:
        transforms: Transforms that run once: loading, and resizing to a fixed size, with
            ``AddValidMask`` between both. They must not be random, since a random result would be
            kept for the whole training.

    Raises:
        ValueError: If a sample has no file.
    """

    def __init__(self, transforms: list[dict]) -> None:
        self.transforms = Compose(transforms)
        self._kept: dict[tuple[str, str | None], dict] = {}

    def transform(self, results: dict) -> dict:
        """Return a copy of the loaded sample, whose arrays may be changed."""
        if not results.get('img_path'):
            raise ValueError(
                'KeepInMemory tells samples apart by img_path, which this one lacks: give it files.'
            )
        key = (results['img_path'], results.get('seg_map_path'))
        if key not in self._kept:
            self._kept[key] = self.transforms(results)
        return deepcopy(self._kept[key])

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transforms})'
