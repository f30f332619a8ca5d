# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Whether a confidence of 80 % is right at 80 % of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS
from torch import Tensor


def bin_sums(sure: Tensor, right: Tensor, bins: int) -> np.ndarray:
    """Of each bin the number of pixels, the sum of their probabilities, and how many are right.

    Args:
        sure: Probabilities of the predicted classes, (N,) in [0, 1].
        right: Whether they are right, (N,) bool.
        bins: How many, of equal width.

    Returns:
        (3, bins), float64.
    """
    sure = sure.double()
    places = (sure * bins).ceil().long().clamp(1, bins) - 1
    weights = (torch.ones_like(sure), sure, right.double())
    return np.stack([torch.bincount(places, each, bins).cpu().numpy() for each in weights])


def expected_calibration_error(sure: Tensor, right: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent; see :func:`bin_sums` for the arguments."""
    return _error(bin_sums(sure, right, bins))


def _error(sums: np.ndarray) -> float:
    count, sure, right = sums
    return float(100 * np.abs(right - sure).sum() / max(count.sum(), 1.0))


@METRICS.register_module()
class CalibrationErrorMetric(BaseMetric):
    r"""Expected calibration error (Guo et al., ICML 2017, equation 3) over labelled pixels.

    The pixels are put into bins by the probability :math:`p` of their predicted class, and

    .. math:: \mathrm{ECE} = \sum_b \frac{|b|}{n} |\mathrm{acc}(b) - \mathrm{conf}(b)|

    with the share of pixels in bin :math:`b` that are right and the mean of their :math:`p`.

    Args:
        bins: How many, of equal width.
        ignore_index: Label of pixels that do not count.
        **kwargs: Passed on to ``BaseMetric``.

    Returns:
        ``ECE`` in percent, and ``mean_confidence`` in percent: above the accuracy where the network
        is too sure of itself.
    """

    def __init__(self, bins: int = 15, ignore_index: int = 255, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if bins < 1:
            raise ValueError(f'CalibrationErrorMetric got bins={bins}: give 1 or more.')
        self.bins, self.ignore_index = bins, ignore_index

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch.

        Args:
            data_batch: Not used.
            data_samples: The model's outputs as dicts with ``seg_logits`` (K, H, W), of one channel
                those of a sigmoid, ``pred_sem_seg`` and ``gt_sem_seg`` (1, H, W).

        Raises:
            ValueError: A sample has no ground truth.
        """
        for sample in data_samples:
            if 'gt_sem_seg' not in sample:
                raise ValueError(
                    f'{sample.get("img_path", "an image")} has no ground truth: give the dataset '
                    'its annotations, or leave CalibrationErrorMetric out.'
                )
            logits = sample['seg_logits']['data'].float()
            label, found = (sample[key]['data'][0] for key in ('gt_sem_seg', 'pred_sem_seg'))
            if len(logits) == 1:
                share = logits[0].sigmoid()
                sure = torch.where(found == 1, share, 1 - share)
            else:
                sure = logits.softmax(0).gather(0, found[None].long())[0]
            counted = label != self.ignore_index
            self.results.append(bin_sums(sure[counted], (found == label)[counted], self.bins))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Compute the error of all images together.

        Args:
            results: Of each image and bin the number of pixels, the sum of their probabilities and
                the number of those that are right, (3, bins).
        """
        sums: np.ndarray = np.sum(results, axis=0)
        mean = 100 * sums[1].sum() / max(sums[0].sum(), 1.0)
        return {'ECE': round(_error(sums), 2), 'mean_confidence': round(float(mean), 2)}
