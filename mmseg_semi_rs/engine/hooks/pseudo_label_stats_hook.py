# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the pseudo labels are like: how many are used, of which classes, and how often right."""

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
    """Log what the pseudo labels of the last ``interval`` steps, on all ranks, were like.

    They are counted in every step on the device; the host waits once an interval. Logged are, with
    the network's name in front where a model has several (``a/pseudo_kept``):

    - ``pseudo_kept``: share of the valid pixels with weight in the loss, weighted.
    - ``pseudo_confidence``: mean over the valid pixels.
    - ``pseudo_share/<class>``: share of the kept weight.
    - ``pseudo_predicted/<class>``: share of all valid pixels, kept or not.
    - ``pseudo_kept_rate/<class>``: kept weight over the pixels that are predicted as the class.

    For research, the unlabelled pipeline may load masks: ``LoadAnnotations`` after
    ``LoadImageFromFile`` and a ``data_prefix`` with ``seg_map_path``. The weak views' samples then
    have a ``gt_sem_seg`` that went through the same geometry; losses never read it, it is only to
    look at. Logged are then also

    - ``pseudo_accuracy``, ``pseudo_accuracy_kept``: share of right labels, of all valid pixels and
      of the kept weight. Both may read high while a small class is lost, so look at the next two.
    - ``pseudo_precision/<class>``: of the kept weight of the class, what is truly of it.
    - ``pseudo_recall/<class>``: kept weight on pixels that are truly of the class and labelled so,
      over all pixels that are truly of it.

    A value is NaN where there is nothing to judge: the precision of a class that nothing was kept
    of. The first values after a resume are of the steps since the resume.

    Args:
        interval: Iterations that are summed up. Choose the logger's interval.

    Raises:
        ValueError: If the interval is below 1.
    """

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise ValueError(f'PseudoLabelStatsHook interval={interval} must be at least 1.')
        self.interval = interval
        self._counts: dict[str, dict[str, Tensor]] = {}

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Count the batch's pseudo labels; at the interval, log and begin again."""
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
