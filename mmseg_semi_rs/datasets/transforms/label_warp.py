# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Labels with slightly displaced boundaries, as another annotator might have drawn them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from .formatting import PADDED


@TRANSFORMS.register_module()
class LabelWarp(BaseTransform):
    r"""Displace the mask of a labelled image, but not the image.

    NSegment (arXiv 2504.19634, 2508.10383): each pixel takes the label of a nearby place,

    .. math:: L'(p) = L(p + G_\sigma * \alpha u), \quad u \sim \mathcal{U}(-1, 1)^2

    with a strength :math:`\alpha` and a smoothness :math:`\sigma` drawn for each image, so that the
    network need not fit boundaries that no annotator can draw to the pixel. Labels change only
    where both places have one: padding stays unlabelled, and sparse labels stay as they are.

    Put it before ``PackSemiInputs`` in the branch ``sup``: the geometry is finished there, and
    validation does not use that branch.

    Args:
        prob: Probability that a mask is warped, in [0, 1].
        strengths: Values of alpha, 0 or more; the displacement is about 0.16 * alpha / sigma pixels
            (root mean square along each axis).
        smoothness: Values of sigma in pixels, above 0.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        prob: float = 0.5,
        strengths: Sequence[float] = (1, 15, 30, 50, 100),
        smoothness: Sequence[float] = (3, 5, 10),
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'LabelWarp has prob={prob}: it must be in [0, 1].')
        if not strengths or min(strengths) < 0 or not smoothness or min(smoothness) <= 0:
            raise ValueError(
                f'LabelWarp has strengths={strengths} and smoothness={smoothness}: give at least '
                'one strength of 0 or more and one smoothness above 0.'
            )
        self.prob = prob
        self.strengths, self.smoothness = tuple(strengths), tuple(smoothness)

    def transform(self, results: dict) -> dict:
        """Warp ``gt_seg_map`` (H, W), if there is one."""
        labels = results.get('gt_seg_map')
        # The data set seeds the global generator for each draw.
        if labels is None or np.random.random() >= self.prob:  # noqa: NPY002
            return results
        strength = np.random.choice(self.strengths)  # noqa: NPY002
        sigma = float(np.random.choice(self.smoothness))  # noqa: NPY002
        noise = np.random.uniform(-1, 1, (*labels.shape, 2)).astype(np.float32)  # noqa: NPY002
        shift = strength * cv2.GaussianBlur(noise, (0, 0), sigma)
        height, width = labels.shape
        rows, columns = np.indices(labels.shape)
        rows = np.clip(np.rint(rows + shift[..., 1]).astype(int), 0, height - 1)
        columns = np.clip(np.rint(columns + shift[..., 0]).astype(int), 0, width - 1)
        moved = labels[rows, columns]
        unlabelled = (labels == PADDED) | (moved == PADDED)
        results['gt_seg_map'] = np.where(unlabelled, labels, moved)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(prob={self.prob}, strengths={self.strengths}, '
            f'smoothness={self.smoothness})'
        )
