# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the pseudo labels are like: how many are used, of which classes, and how often right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from ...structures import PseudoLabel


@torch.no_grad()
def pseudo_label_stats(
    pseudo: PseudoLabel, samples: Sequence[SegDataSample], classes: Sequence[str]
) -> dict[str, float]:
    """Summarise the pseudo labels of one batch.

    Args:
        pseudo (PseudoLabel): Of shape (B, H, W).
        samples (Sequence[SegDataSample]): The B samples; truth is taken from those that have
            ``gt_sem_seg``, which the loss never reads.
        classes (Sequence[str]): Class names.

    Returns:
        dict[str, float]: ``pseudo_kept`` (share of valid pixels with weight, weighted),
        ``pseudo_confidence`` (mean over valid pixels), ``pseudo_share/<class>`` (share of the kept
        weight), and, where truth exists, ``pseudo_accuracy`` and ``pseudo_accuracy_kept``; all in
        [0, 1].
    """
    valid = pseudo.valid.float()
    weight = pseudo.weight * valid
    total = valid.sum().clamp(min=1)
    share = torch.zeros(len(classes), device=weight.device)
    share.scatter_add_(0, pseudo.labels.flatten(), weight.flatten())
    names = ['pseudo_kept', 'pseudo_confidence', *(f'pseudo_share/{name}' for name in classes)]
    values = [weight.sum() / total, (pseudo.confidence * valid).sum() / total]
    values += list(share / share.sum().clamp(min=1e-6))
    known = [index for index, sample in enumerate(samples) if 'gt_sem_seg' in sample]
    if known:
        truth = torch.stack([samples[index].gt_sem_seg.data[0] for index in known])
        counted = (truth < len(classes)).float() * valid[known]
        right = (truth == pseudo.labels[known]).float() * counted
        kept = counted * weight[known]
        names += ['pseudo_accuracy', 'pseudo_accuracy_kept']
        values += [
            right.sum() / counted.sum().clamp(min=1),
            (right * kept).sum() / kept.sum().clamp(min=1e-6),
        ]
    return dict(zip(names, torch.stack(values).tolist(), strict=True))


@HOOKS.register_module()
class PseudoLabelStatsHook(Hook):
    """Log ``pseudo_label_stats`` of the current batch at an interval.

    Where a model has the targets of several networks, each name has the network's in front:
    ``a/pseudo_kept``.

    Args:
        interval (int): Iterations between looks; a look makes the host wait once. Choose the
            logger's interval. Defaults to 50.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Summarise the batch's pseudo labels into the message hub."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        step = getattr(model, 'last_step', None)
        if not step:
            return
        classes = runner.train_dataloader.dataset.metainfo['classes']
        found = step['pseudo']
        for network, pseudo in (found if isinstance(found, dict) else {'': found}).items():
            prefix = f'train/{network}/' if network else 'train/'
            for name, value in pseudo_label_stats(pseudo, step['samples'], classes).items():
                runner.message_hub.update_scalar(prefix + name, value)
