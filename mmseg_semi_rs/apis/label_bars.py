# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Predictions of many images, and confidence thresholds above which they count as labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import MODELS
from torch import Tensor

from ..rasters.masks import read_mask
from ..utils.progress import progress_bar
from .maps import Layers
from .prediction import predict_files
from .predictor import NO_DATA, Predictor

NEVER = 256  # a threshold that no probability in 255ths reaches


def predict_all(
    predictor: Predictor, images: Sequence[Path], root: Path, out: Path
) -> tuple[dict[Path, list[Path]], list[str]]:
    """Predict images into a folder, and keep results of an earlier run with the same settings.

    Returns:
        The map of classes and the map of confidence of each image; and a message for each image
        that could not be predicted.
    """
    folders: dict[Path, list[Path]] = {}
    for path in images:
        folders.setdefault(path.parent, []).append(path)
    files: dict[Path, list[Path]] = {}
    failures: list[str] = []
    for folder, found in folders.items():
        with progress_bar() as bar:
            task = bar.add_task(f'predicting {folder.name}', total=None)
            done = predict_files(
                predictor,
                found,
                out / folder.relative_to(root),
                Layers(confidence=True),
                progress=lambda now, all_: bar.update(task, completed=now, total=all_),  # noqa: B023
            )
        files.update(done.files)
        failures += done.failures
    return files, failures


def read_prediction(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read class ids and their confidence in 255ths, (H, W) uint8 each."""
    labels, confidence = (read_mask(path).pixels for path in files[:2])
    return labels, confidence


def surest_share(
    predictions: Mapping[Path, Sequence[Path]], classes: int, keep: float
) -> np.ndarray:
    """Compute a threshold per class that keeps the most confident share of its pixels.

    Args:
        predictions: Prediction files of each image, see :func:`predict_all`.
        classes: Number of classes K.
        keep: Share of each class's pixels over all images to keep, in (0, 1].

    Returns:
        Lowest confidence that is kept, in 255ths, (K,) int64; :data:`NEVER` for absent classes.
    """
    counts = np.zeros((classes, 256), np.int64)
    for files in predictions.values():
        labels, confidence = read_prediction(files)
        known = labels != NO_DATA
        np.add.at(counts, (labels[known], confidence[known]), 1)
    above = counts[:, ::-1].cumsum(1)[:, ::-1]  # pixels at or above each probability
    bars: np.ndarray = (above >= keep * above[:, :1]).sum(1) - 1
    return np.where(above[:, 0] > 0, bars, NEVER)


def trusted(
    predictions: Mapping[Path, Sequence[Path]],
    known: Mapping[Path, Mapping[str, Any]],
    classes: int,
    alpha: float,
) -> np.ndarray:
    """Compute a threshold per class above which at most a given share of its pixels is wrong.

    Args:
        predictions: Prediction files of labelled images that no network was trained on.
        known: Data info of those images.
        classes: Number of classes K.
        alpha: Allowed share, see :class:`~mmseg_semi_rs.purification.ConformalThresholds`.

    Returns:
        Lowest confidence that counts as a label, in 255ths, (K,) int64; :data:`NEVER` for a class
        that is too often wrong at any confidence.
    """

    def tiles() -> Iterator[tuple[Tensor, Tensor]]:
        for image, files in predictions.items():
            labels, confidence = map(torch.tensor, read_prediction(files))
            labels, confidence = labels.flatten().long(), confidence.flatten()
            truth = torch.from_numpy(own_mask(known[image])).flatten().long()
            said = labels != NO_DATA
            scores = torch.zeros(classes, len(truth))
            scores[labels[said], said.nonzero()[:, 0]] = confidence[said] / 255
            yield scores, truth

    thresholds: Any = MODELS.build(dict(type='ConformalThresholds', alpha=alpha))
    grid = torch.arange(1, 256) / 255
    found = thresholds.fit(tiles(), grid).threshold.double() * 255
    bars: np.ndarray = found.nan_to_num(posinf=NEVER).round().long().numpy()
    return bars


def own_mask(info: Mapping[str, Any]) -> np.ndarray:
    """Read the class ids of a labelled image as training does, (H, W) uint8."""
    mask: np.ndarray = LoadAnnotations()(dict(info, seg_fields=[]))['gt_seg_map']
    return mask
