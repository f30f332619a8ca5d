# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Resizing that leaves no aliases."""

from __future__ import annotations

import mmcv
import numpy as np
from mmseg.datasets.transforms import Resize
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class AntialiasedResize(Resize):
    """mmseg's ``Resize`` that shrinks images as Pillow does, which the published methods use.

    OpenCV's bilinear interpolation reads two by two pixels however far it shrinks, so that fine
    texture becomes noise (at half the size a third more gradient energy); Pillow's reads as many as
    fall together. Enlarging and maps of ids are as in ``Resize``. In a ``RandomResize``:
    ``resize_type='AntialiasedResize'``.

    Args:
        **kwargs: Passed on to ``Resize``.
    """

    backend: str

    def _resize_img(self, results: dict) -> None:
        image = results['img']
        scale, size = results['scale'], image.shape[1::-1]
        if self.keep_ratio:
            scale = mmcv.rescale_size(size, scale)
        shrinks = min(new / old for new, old in zip(scale, size, strict=True)) < 1
        if not shrinks or image.dtype != np.uint8:
            super()._resize_img(results)
            return
        whole = image.ndim == 2 or image.shape[2] == 3  # what Pillow takes as one picture
        parts = [image] if whole else [image[..., band] for band in range(image.shape[2])]
        backend, self.backend = self.backend, 'pillow'
        try:
            for index, part in enumerate(parts):
                results['img'] = np.ascontiguousarray(part)
                super()._resize_img(results)
                parts[index] = results['img']
        finally:
            self.backend = backend
        results['img'] = parts[0] if whole else np.stack(parts, axis=-1)
