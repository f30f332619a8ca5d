# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures of the pseudo labels for the visualizer's backends: files, TensorBoard and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from ...models.data_preprocessor import rgb_channels
from ...models.segmentors import SemiSegmentor
from ...purification.audit import AuditRecord
from ...purification.evidence import quantise
from ...purification.purifier import EvidencePurifier, Purification
from ...rasters.levels import levels_to_rgb
from ...structures import PseudoLabel
from ...utils.runner import unwrap
from ...visualization.panels import colorize, draw_panels, legend
from ...visualization.purification_panels import ACTION_COLOURS, purification_row


@HOOKS.register_module()
class SemiVisHook(Hook):
    """Draw the first unlabelled images of a batch with their pseudo labels at an interval.

    Each row shows one image: the weak view, its label, confidence and weight, and the truth if the
    sample has a ``gt_sem_seg``. With a ``VLMPurifyHook`` it shows the teacher's label, the
    evidence, the purified label and what was changed. Pictures are passed to ``runner.visualizer``
    as ``pseudo_labels``, or ``pseudo_labels_<name>`` for two students.

    Args:
        interval: Iterations between pictures; each makes the host wait for the device.
        images: Maximum number of images of a batch.

    Raises:
        ValueError: If an argument is below 1.
    """

    def __init__(self, interval: int = 500, images: int = 4) -> None:
        if interval < 1 or images < 1:
            raise ValueError(
                f'SemiVisHook interval={interval} and images={images} must be 1 or more.'
            )
        self.interval, self.images = interval, images

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Draw the batch if it is due."""
        model = unwrap(runner.model)
        due = self.every_n_train_iters(runner, self.interval) and isinstance(model, SemiSegmentor)
        if not due or not model.last_step.pseudo:
            return
        named, samples = model.last_step.titled, model.last_step.unlabelled
        done: list[Purification | None] = [*_purifications(model)] or [None] * len(named)
        channels = rgb_channels(model.data_preprocessor, loaded=True)
        pixels = [image[channels] for image in data_batch['inputs']['weak'] if image is not None]
        for (name, pseudo), purification in zip(named.items(), done, strict=True):
            picture = self._draw(
                pixels, samples, pseudo, purification, runner.visualizer.dataset_meta
            )
            title = f'pseudo_labels_{name}' if name else 'pseudo_labels'
            runner.visualizer.add_image(title, picture, step=runner.iter + 1)

    def _draw(
        self,
        pixels: list[Tensor],
        samples: Sequence[Any],
        pseudo: PseudoLabel,
        done: Purification | None,
        meta: dict[str, Any],
    ) -> np.ndarray:
        """Draw one row per image and a legend of the classes below, (H, W, 3) uint8."""
        classes, palette = meta['classes'], meta['palette']
        rows: list[list[np.ndarray]] = []
        titles: list[str] = []
        for index in range(min(self.images, len(pixels))):
            record = _record(index, pixels[index], samples[index], pseudo, done)
            if done is None:
                row = [
                    record.image,
                    colorize(np.where(record.valid, record.labels_after, 255), palette),
                    _grey(record.confidence),
                    _grey(record.weight_after),
                ]
                heads = ['weak view', 'pseudo label', 'confidence', 'weight']
                if record.truth is not None:
                    row, heads = [*row, colorize(record.truth, palette)], [*heads, 'truth']
            else:
                row, heads = purification_row(record, classes, palette)
            rows.append(row)
            titles = max(titles, heads, key=len)
        grid = draw_panels(rows, titles)
        colours = dict(zip(classes, palette, strict=True))
        colours.update({} if done is None else ACTION_COLOURS)
        return np.concatenate([grid, legend(list(colours), list(colours.values()), grid.shape[1])])


def _purifications(model: SemiSegmentor) -> list[Purification]:
    """What an evidence purifier of the model did in this step, by network; empty without one."""
    for purifier in model.purifiers:
        if isinstance(purifier, EvidencePurifier) and purifier.last:
            return purifier.last
    return []


def _record(
    index: int, pixels: Tensor, sample: Any, pseudo: PseudoLabel, done: Purification | None
) -> AuditRecord:
    """Collect one image of a batch, given as RGB (3, H, W), without the padding of the batch."""
    height, width = pixels.shape[-2:]

    def crop(maps: Tensor) -> np.ndarray:
        return maps[index, ..., :height, :width].cpu().numpy()

    before = pseudo if done is None else done.before
    after = pseudo if done is None else done.after
    labels = crop(after.labels)
    truth = sample.gt_sem_seg.data[..., :height, :width] if 'gt_sem_seg' in sample else None
    return AuditRecord(
        name=str(sample.metainfo.get('img_path', index)),
        key=None,
        image=levels_to_rgb(pixels.cpu().numpy().transpose(1, 2, 0), (0, 1, 2)),
        labels_before=crop(before.labels),
        labels_after=labels,
        confidence=crop(before.confidence),
        weight_before=crop(before.weight),
        weight_after=crop(after.weight),
        actions=np.zeros_like(labels, dtype=np.uint8) if done is None else crop(done.actions),
        valid=crop(before.valid),
        truth=None if truth is None else truth[0].cpu().numpy(),
        scores=None if done is None else quantise(crop(done.scores)),
        seen=None if done is None else crop(done.seen),
        regions=None if done is None or done.regions is None else crop(done.regions),
    )


def _grey(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)
