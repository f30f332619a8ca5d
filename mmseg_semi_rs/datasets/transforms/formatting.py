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

#: Value of a pixel that shows the tile, as opposed to one that a transform or the batch padded.
VALID = 0
#: What mmseg's transforms fill into maps where an image ends (their ``seg_pad_val``).
PADDED = 255


@TRANSFORMS.register_module()
class AddValidMask(BaseTransform):
    """Add a map that follows the geometry and tells padding and no data from pixels.

    Where the file of the image says that it has no data (alpha, a mask inside or beside it, a
    no-data value), nothing is taught and nothing learnt, in labelled and unlabelled views alike.

    It is listed in ``seg_fields``, so every mmseg transform moves it like a label map and fills 255
    where it pads.

    Added keys: ``valid_map`` (H, W), uint8, 0 = pixel of the tile, 255 = padding or no data.
    """

    def __init__(self) -> None:
        self._whole: set[str] = set()  # files that have data everywhere

    def transform(self, results: dict) -> dict:
        """Add the map.

        Args:
            results: With ``img`` of shape (H, W, C).

        Returns:
            The same results with ``valid_map``.
        """
        shape, path = results['img'].shape[:2], str(results.get('img_path') or '')
        results['valid_map'] = np.full(shape, VALID, dtype=np.uint8)
        valid = results.pop('has_data', None)  # of a loader of rasters
        if valid is None and path not in self._whole:
            valid = read_valid(Path(path)) if Path(path).is_file() else None
            if valid is None or valid.shape != shape or valid.all():
                self._whole.add(path)
                valid = None
        if valid is not None:
            results['valid_map'][~valid] = PADDED
        results.setdefault('seg_fields', []).append('valid_map')
        return results


@TRANSFORMS.register_module()
class PackSemiInputs(PackSegInputs):
    """``PackSegInputs`` that keeps the valid mask and the recorded geometry.

    Args:
        meta_keys: Results copied into the sample's metainfo.

    The data sample gets ``valid`` (PixelData, (1, H, W) bool, False on padding) if ``AddValidMask``
    ran before.
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
