# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Predictions of many images, and from which probability on a class in them counts as a label."""

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

NEVER = 256  # a bar that no probability in 255ths reaches


def predict_all(
    predictor: Predictor, images: Sequence[Path], root: Path, out: Path
) -> tuple[dict[Path, list[Path]], list[str]]:
    """Predict images into ``out``; what an earlier run has predicted by the same is kept.

    Returns:
        Of each image the files of its classes and of their probability; a sentence for each image
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
    """Class ids and their probability in 255ths, (H, W) uint8 each."""
    labels, confidence = (read_mask(path).pixels for path in files[:2])
    return labels, confidence


def surest_share(
    predictions: Mapping[Path, Sequence[Path]], classes: int, keep: float
) -> np.ndarray:
    """The bar of each class above which its surest share lies, in all images together.

    Args:
        predictions: See :func:`predict_all`.
        classes: K.
        keep: Share, in (0, 1].

    Returns:
        Probability in 255ths, (K,) int64; :data:`NEVER` for a class that is nowhere.
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
    """The bar of each class from which at most a share of its claims is wrong.

    Args:
        predictions: Of labelled images that none of the networks was trained on.
        known: Those images as their data set describes them.
        classes: K.
        alpha: See :class:`~mmseg_semi_rs.purification.ConformalThresholds`.

    Returns:
        Probability in 255ths, (K,) int64; :data:`NEVER` for a class that is not right often enough
        from any on.
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
    """Class ids of a labelled image, (H, W) uint8, as training reads them."""
    mask: np.ndarray = LoadAnnotations()(dict(info, seg_fields=[]))['gt_seg_map']
    return mask
