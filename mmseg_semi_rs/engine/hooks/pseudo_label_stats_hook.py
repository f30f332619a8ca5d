# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Statistics of the pseudo labels: how many are used, for which classes, and how many are right."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from ...models.segmentors import SemiSegmentor
from ...utils.runner import unwrap
from ..pseudo_label_counts import count_pseudo_labels, summarise_counts


@HOOKS.register_module()
class PseudoLabelStatsHook(Hook):
    """Log statistics of the pseudo labels of the last ``interval`` steps on all ranks.

    They are counted on the device in every step; the host waits once per interval. If a model has
    several networks, names are prefixed (``a/pseudo_kept``). Logged are

    - ``pseudo_kept``: mean weight in the loss over the valid pixels.
    - ``pseudo_confidence``: mean confidence over the valid pixels.
    - ``pseudo_share/<class>``: share of the kept weight; 0 if nothing is kept.
    - ``pseudo_predicted/<class>``: share of all valid pixels, kept or not.
    - ``pseudo_kept_rate/<class>``: kept weight over the number of pixels predicted as the class.

    For research the unlabelled pipeline may load masks: ``LoadAnnotations`` after
    ``LoadImageFromFile`` and a ``data_prefix`` with ``seg_map_path``. The samples of the weak views
    then have a ``gt_sem_seg`` with the same geometry, which no loss reads. In that case also logged
    are

    - ``pseudo_accuracy``, ``pseudo_accuracy_kept``: share of right labels among all valid pixels
      and in the kept weight. Both may be high while a small class is lost, so check the next two.
    - ``pseudo_precision/<class>``: share of the class's kept weight that is truly of the class.
    - ``pseudo_recall/<class>``: kept weight on pixels of the class that are labelled so, over all
      pixels of the class.

    Other values are NaN if their denominator is 0, such as the precision of a class without kept
    pixels. The first values after a resume cover only the steps since the resume.

    Args:
        interval: Iterations that are summed up; should equal the logger's interval.

    Raises:
        ValueError: If the interval is below 1.
    """

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f'PseudoLabelStatsHook interval={interval} must be at least 1.')
        self.interval = interval
        self._counts: dict[str, dict[str, Tensor]] = {}

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Count the batch's pseudo labels; log and reset the counts at the interval."""
        model = unwrap(runner.model)
        if not isinstance(model, SemiSegmentor):
            return
        step, classes = model.last_step, runner.train_dataloader.dataset.metainfo['classes']
        for network, pseudo in step.titled.items():
            counts = self._counts.setdefault(network, {})
            for name, count in count_pseudo_labels(pseudo, step.unlabelled, len(classes)).items():
                counts[name] = counts[name] + count if name in counts else count
        if not self.every_n_train_iters(runner, self.interval):
            return
        for network, counts in self._counts.items():
            table = torch.stack(list(counts.values()))
            all_reduce(table)
            summed = dict(zip(counts, table.tolist(), strict=True))
            prefix = f'train/{network}/' if network else 'train/'
            for name, value in summarise_counts(summed, classes).items():
                runner.message_hub.update_scalar(prefix + name, value)
        self._counts = {}
