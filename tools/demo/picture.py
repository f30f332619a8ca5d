# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The picture of the demo: what trainings predict for tiles of unseen scenes, where they err."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.registry import DATASETS, MODELS

from mmseg_semi_rs.models.weights import load_weights
from mmseg_semi_rs.visualization.panels import (
    colorize,
    draw_panels,
    legend,
    overlay,
    save_picture,
)

from .runs import Run

ERROR = (230, 0, 60)


def predict(run: Run, tiles: Sequence[int]) -> list[np.ndarray]:
    """Predict some of the tiles that a run is scored on, from its checkpoint; builds no teacher.

    Returns:
        For each tile the classes, (H, W) uint8.
    """
    if run.checkpoint is None:
        raise FileNotFoundError(f'{run.folder} holds no checkpoint: train {run.config} first.')
    cfg = Config.fromfile(run.config)
    cfg.merge_from_dict(run.options)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    model = MODELS.build(cfg.model)
    load_weights(model, run.checkpoint)
    model.eval()
    maps = []
    for tile in tiles:
        with torch.no_grad():
            result = model.test_step(pseudo_collate([dataset[tile]]))[0]
        maps.append(result.pred_sem_seg.data[0].numpy().astype(np.uint8))
    return maps


def ask_by_name(verifier: dict[str, Any], dataset: Any, tiles: Sequence[int]) -> list[np.ndarray]:
    """Let a CLIP that knows the classes by name alone map some tiles, without any label.

    Args:
        verifier: Config of a ``CLIPVerifier`` that has names for every class.
        dataset: Tiles.
        tiles: Which of them.

    Returns:
        For each tile the classes, (H, W) uint8.
    """
    clip = MODELS.build(verifier)
    clip.load()
    maps = []
    for tile in tiles:
        image = image_of(dataset[tile])
        (found,) = clip.verify([image])
        scores = found.scores.astype(np.float32).transpose(1, 2, 0)
        wide = cv2.resize(scores, image.shape[1::-1])
        maps.append(wide.argmax(-1).astype(np.uint8))
    return maps


def image_of(sample: dict[str, Any]) -> np.ndarray:
    """Pixels of a sample, (H, W, 3) uint8, RGB."""
    return np.ascontiguousarray(sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1])


def truth_of(sample: dict[str, Any]) -> np.ndarray:
    """Classes of a sample, (H, W) uint8, 255 where ignored."""
    return sample['data_samples'].gt_sem_seg.data[0].numpy().astype(np.uint8)


def class_iou(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """IoU of each class on one tile in percent, NaN where neither map has it; 255 is ignored."""
    counted = truth < classes
    pairs = truth[counted].astype(int) * classes + prediction[counted]
    table = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    either = table.sum(0) + table.sum(1) - table.diagonal()
    return 100 * np.divide(table.diagonal(), either, where=either > 0, out=np.full(classes, np.nan))


def shown_tiles(dataset: Any, count: int = 5) -> list[int]:
    """One tile each of evenly spaced places in the list, whatever they look like."""
    count = min(count, len(dataset))
    return [round((index + 0.5) * len(dataset) / count - 0.5) for index in range(count)]


def draw(maps: Mapping[str, Sequence[np.ndarray]], dataset: Any, path: Path) -> None:
    """Draw the shown tiles: image, truth, what each predicts and where it errs.

    Args:
        maps: Predictions for :func:`shown_tiles` by title.
        dataset: Where they are from.
        path: PNG file to write.
    """
    classes, palette = dataset.metainfo['classes'], dataset.metainfo['palette']
    rows, names = [], []
    for index, tile in enumerate(shown_tiles(dataset)):
        sample = dataset[tile]
        image, truth = image_of(sample), truth_of(sample)
        grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1).astype(np.uint8)
        row, told = [image, colorize(truth, palette)], []
        for title, predictions in maps.items():
            prediction = predictions[index]
            wrong = (prediction != truth) & (truth != 255)
            red = np.full_like(grey, ERROR)
            row += [colorize(prediction, palette), overlay(grey, red, wrong, opacity=0.8)]
            iou = np.nanmean(class_iou(prediction, truth, len(classes)))
            told.append(f'{title} {iou:.0f}')
        rows.append(row)
        name = Path(sample['data_samples'].img_path).stem
        names.append(f'{name}: mean IoU of this tile, %: {", ".join(told)}')
    titles = [each for title in maps for each in (title, f'{title}: errors')]
    grid = draw_panels(rows, ['image', 'truth', *titles], names, cell=176)
    below = legend(classes, palette, grid.shape[1])
    save_picture(np.concatenate([grid, below]), path)
