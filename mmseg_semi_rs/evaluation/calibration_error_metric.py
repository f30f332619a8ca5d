# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Calibration of the confidence, that is, whether 80 % of the pixels at 80 % are correct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS
from torch import Tensor


def bin_sums(sure: Tensor, right: Tensor, bins: int) -> np.ndarray:
    """Sum up the number of pixels, their confidences and the correct pixels in each bin.

    Args:
        sure: Confidences, that is, probabilities of the predicted classes, (N,) in [0, 1].
        right: Whether the predictions are correct, (N,) bool.
        bins: Number of bins of equal width.

    Returns:
        The three sums, (3, bins), float64.
    """
    sure = sure.double()
    places = (sure * bins).ceil().long().clamp(1, bins) - 1
    weights = (torch.ones_like(sure), sure, right.double())
    return np.stack([torch.bincount(places, each, bins).cpu().numpy() for each in weights])


def expected_calibration_error(sure: Tensor, right: Tensor, bins: int = 15) -> float:
    """Compute the expected calibration error in percent; see :func:`bin_sums` for the arguments."""
    return _error(bin_sums(sure, right, bins))


def _error(sums: np.ndarray) -> float:
    count, sure, right = sums
    return float(100 * np.abs(right - sure).sum() / max(count.sum(), 1.0))


@METRICS.register_module()
class CalibrationErrorMetric(BaseMetric):
    r"""Expected calibration error (Guo et al., ICML 2017, equation 3) over labelled pixels.

    The pixels are divided into bins by their confidence :math:`p`, the probability of the predicted
    class, and

    .. math:: \mathrm{ECE} = \sum_b \frac{|b|}{n} |\mathrm{acc}(b) - \mathrm{conf}(b)|

    with the share of correct pixels in bin :math:`b` and their mean :math:`p`. ``evaluate`` returns
    ``ECE`` and ``mean_confidence`` in percent; the latter is above the accuracy of an overconfident
    network.

    Args:
        bins: Number of bins of equal width.
        ignore_index: Label of unlabelled pixels, which do not count.
        **kwargs: Passed on to ``BaseMetric``.

    Raises:
        ValueError: ``bins`` is less than 1.
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
            data_samples: Outputs of the model as dicts with ``seg_logits`` (K, H, W), where a
                single channel is that of a sigmoid, and ``pred_sem_seg`` and ``gt_sem_seg``
                (1, H, W).

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
        """Compute ``ECE`` and ``mean_confidence``, in percent, over all images together.

        Args:
            results: Sums of each image, (3, bins), see :func:`bin_sums`.
        """
        sums: np.ndarray = np.sum(results, axis=0)
        mean = 100 * sums[1].sum() / max(sums[0].sum(), 1.0)
        return {'ECE': round(_error(sums), 2), 'mean_confidence': round(float(mean), 2)}
