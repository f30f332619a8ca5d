# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Loading that is done once."""

from __future__ import annotations

from copy import deepcopy

from mmcv.transforms import BaseTransform, Compose
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KeepInMemory(BaseTransform):
    """Load each sample once and keep it in memory, for data sets that fit into it.

    Decoding is a large part of a small network's step, and the same tiles come round hundreds of
    times. Each worker process keeps its own.

    Args:
        transforms: What is done once: loading and resizing to a fixed size, nothing random, which
            would be drawn once for ever.

    Raises:
        ValueError: On a sample that is no file.
    """

    def __init__(self, transforms: list[dict]) -> None:
        self.transforms = Compose(transforms)
        self._kept: dict[tuple[str, str | None], dict] = {}

    def transform(self, results: dict) -> dict:
        """Return a copy of the loaded sample, of which the arrays may be written into."""
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
