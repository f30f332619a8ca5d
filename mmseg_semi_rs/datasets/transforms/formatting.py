# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The valid mask of a sample, and packing that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import TRANSFORMS

from ...rasters.reader import read_valid

#: Value of a pixel of the tile, as opposed to padding by a transform or the batch.
VALID = 0
#: Value with which mmseg's transforms pad maps (their ``seg_pad_val``).
PADDED = 255


@TRANSFORMS.register_module()
class AddValidMask(BaseTransform):
    """Add a map that follows the geometry and marks padding and pixels without data.

    If the file of the image marks pixels without data (alpha, an internal or external mask, a
    no-data value), they are not trained on, in labelled and unlabelled views alike. The map is
    listed in ``seg_fields``, so every mmseg transform moves it like a label map and pads it with
    255. It must come before the first of them: marks of a file that has another size than the image
    are not used.

    Added keys: ``valid_map`` (H, W), uint8, 0 = pixel of the tile, 255 = padding or no data.
    """

    def __init__(self) -> None:
        self._whole: set[str] = set()  # files that have data everywhere

    def transform(self, results: dict) -> dict:
        """Add the map.

        Args:
            results: The sample, with ``img`` of shape (H, W, C).

        Returns:
            The same sample with ``valid_map``.
        """
        shape, path = results['img'].shape[:2], str(results.get('img_path') or '')
        results['valid_map'] = np.full(shape, VALID, dtype=np.uint8)
        valid = results.pop('has_data', None)  # from a loader of rasters
        if valid is None and path not in self._whole:
            valid = read_valid(Path(path)) if Path(path).is_file() else None
            if valid is None or valid.all():
                self._whole.add(path)
                valid = None
            elif valid.shape != shape:  # this time it is not the file's image alone: a mosaic
                valid = None
        if valid is not None:
            results['valid_map'][~valid] = PADDED
        results.setdefault('seg_fields', []).append('valid_map')
        return results


@TRANSFORMS.register_module()
class PackSemiInputs(PackSegInputs):
    """``PackSegInputs`` that keeps the valid mask and the recorded geometry.

    If ``AddValidMask`` ran before, the data sample gets ``valid`` (PixelData, (1, H, W) bool, False
    on padding).

    Args:
        meta_keys: Results that are copied into the sample's metainfo.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            'img_path',
            'seg_map_path',
            'ori_shape',
            'img_shape',
            'pad_shape',
            'scale_factor',
            'flip',
            'flip_direction',
            'reduce_zero_label',
            'geometry',
            'homography',
        ),
    ) -> None:
        super().__init__(meta_keys=tuple(meta_keys))

    def transform(self, results: dict) -> dict:
        """Pack the sample.

        Args:
            results: The sample at the end of its pipeline.

        Returns:
            ``inputs`` (C, H, W) uint8 and ``data_samples``.
        """
        packed = super().transform(results)
        if 'valid_map' in results:
            valid = torch.from_numpy(np.ascontiguousarray(results['valid_map'] == VALID))
            packed['data_samples'].set_data({'valid': PixelData(data=valid[None])})
        return packed
