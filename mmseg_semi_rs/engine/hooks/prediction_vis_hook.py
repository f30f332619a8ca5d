# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pictures of predictions next to their ground truth, also for the worst predictions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine import fileio
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.registry import HOOKS

from ...datasets.tiles import band_reading, load_image
from ...visualization import compare_maps, save_picture

__all__ = ['PredictionVisHook', 'WorstImagesHook']


@HOOKS.register_module()
class PredictionVisHook(SegVisualizationHook):
    """mmseg's ``SegVisualizationHook`` that shows image, truth, prediction and errors in a row.

    The arguments are the same. Images without ground truth are drawn as by mmseg.
    """

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[Any],
        mode: str = 'val',
    ) -> None:
        drawn = self.draw and mode != 'train' and self.every_n_inner_iters(batch_idx, self.interval)
        for output in outputs if drawn else ():
            name = f'{mode}_{Path(output.img_path).name}'
            loader = runner.val_dataloader if mode == 'val' else runner.test_dataloader
            image = _image(output, loader.dataset, self.backend_args)
            if self.show or 'gt_sem_seg' not in output:
                runner.visualizer.add_datasample(
                    name, image, output, show=self.show, wait_time=self.wait_time, step=runner.iter
                )
                continue
            picture = _picture(output, image, runner.visualizer.dataset_meta)
            runner.visualizer.add_image(name, picture, step=runner.iter)


@HOOKS.register_module()
class WorstImagesHook(Hook):
    """Save pictures of the tested images with the worst predictions.

    Args:
        folder: Output folder; each picture is ``<share of right pixels>_<name>.png``.
        images: Number of images per process.
    """

    def __init__(self, folder: str, images: int = 6) -> None:
        self.folder, self.images = Path(folder), images
        self._worst: list[tuple[float, int, str, np.ndarray]] = []
        self._order = count()

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw images that are worse than the best one stored so far."""
        for output in outputs or ():
            if 'gt_sem_seg' not in output:
                continue
            truth, found = _ids(output.gt_sem_seg), _ids(output.pred_sem_seg)
            known = truth != 255
            wrong = float((found != truth)[known].mean()) if known.any() else 0.0
            if len(self._worst) < self.images or wrong > self._worst[0][0]:
                dataset = runner.test_dataloader.dataset
                picture = _picture(output, _image(output, dataset), dataset.metainfo)
                entry = (wrong, next(self._order), Path(output.img_path).stem, picture)
                push = heapq.heappush if len(self._worst) < self.images else heapq.heappushpop
                push(self._worst, entry)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the stored pictures."""
        for wrong, _, name, picture in self._worst:
            save_picture(picture, self.folder / f'{1 - wrong:.4f}_{name}.png')
        self._worst = []


def _ids(data: Any) -> np.ndarray:
    return data.data.squeeze(0).cpu().numpy()


def _image(output: Any, dataset: Any, backend_args: dict | None = None) -> np.ndarray:
    """Load the RGB image of a sample; for multi-band images, the bands that the dataset shows."""
    if band_reading(dataset) is not None:
        return load_image(dataset, output.img_path)
    contents = fileio.get(output.img_path, backend_args=backend_args)
    return mmcv.imfrombytes(contents, channel_order='rgb')


def _picture(output: Any, image: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    truth, found = _ids(output.gt_sem_seg), _ids(output.pred_sem_seg)
    name = Path(output.img_path).name
    return compare_maps(image, truth, found, meta['classes'], meta['palette'], name)
