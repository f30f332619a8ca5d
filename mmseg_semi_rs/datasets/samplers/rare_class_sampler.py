# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Sampling of labelled images that prefers rare classes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from mmengine.dataset import BaseDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATA_SAMPLERS

from ...utils.randomness import derive_seed
from ..semi_dataset import SemiDataset
from .semi_sampler import SemiSampler


def count_class_pixels(dataset: BaseDataset) -> np.ndarray:
    """Count the pixels of every class in every mask of a dataset.

    Args:
        dataset: An mmseg dataset whose samples have ``seg_map_path``.

    Returns:
        Shape (len(dataset), num_classes), int64; ignored pixels are not counted.
    """
    load = LoadAnnotations()
    num_classes = len(dataset.metainfo['classes'])

    def count(index: int) -> np.ndarray:
        label = load(dict(dataset.get_data_info(index), seg_fields=[]))['gt_seg_map']
        return np.bincount(label.ravel(), minlength=256)[:num_classes]

    with ThreadPoolExecutor(max_workers=8) as pool:
        return np.stack(list(pool.map(count, range(len(dataset)))))


@DATA_SAMPLERS.register_module()
class RareClassSemiSampler(SemiSampler):
    """``SemiSampler`` that prefers labelled images with rare classes.

    Rare class sampling of DAFormer (Hoyer et al., CVPR 2022, eq. 7): first a class c with pixel
    frequency f_c is drawn with a probability proportional to ``exp((1 - f_c) / temperature)``,
    then, uniformly, an image with at least ``min_pixels`` of it. Unlabelled samples are drawn as in
    ``SemiSampler``. A draw depends only on (seed, position), so that resuming stays exact.

    Args:
        dataset: The dataset to sample from; its labelled masks are read once.
        batch_size: Samples per batch on one rank.
        source_ratio: Ratio labelled : unlabelled. Defaults to (1, 1).
        seed: See ``SemiSampler``.
        temperature: Positive; smaller values prefer rare classes more.
        min_pixels: Minimum number of pixels for an image to count for a class. If no image has that
            many, all images with any pixel of the class count.
        shuffle: See ``SemiSampler``.

    Raises:
        ValueError: As ``SemiSampler``, and if the temperature is not positive or no labelled image
            contains any class.
    """

    def __init__(
        self,
        dataset: SemiDataset,
        batch_size: int,
        source_ratio: Sequence[int] = (1, 1),
        seed: int | None = None,
        temperature: float = 0.1,
        min_pixels: int = 100,
        shuffle: bool = True,
    ) -> None:
        super().__init__(dataset, batch_size, source_ratio, seed, shuffle)
        if temperature <= 0:
            raise ValueError(f'temperature={temperature} must be positive.')
        pixels = count_class_pixels(dataset.labelled)
        present = np.flatnonzero(pixels.sum(axis=0))
        if present.size == 0:
            raise ValueError(
                f'No labelled image of {getattr(dataset.labelled, "ann_file", "the dataset")!r} '
                'shows any class: check reduce_zero_label and the masks.'
            )
        frequency = pixels.sum(axis=0)[present] / pixels.sum()
        score = np.exp((1 - frequency) / temperature - ((1 - frequency) / temperature).max())
        self.class_probability = np.zeros(pixels.shape[1])
        self.class_probability[present] = score / score.sum()
        self._images = [
            np.flatnonzero(column >= (min_pixels if column.max() >= min_pixels else 1))
            for column in pixels.T
        ]

    def draw(self, source: int, position: int) -> int:
        """Return the sample at a position; see ``SemiSampler.draw``."""
        if source != 0:
            return super().draw(source, position)
        rng = np.random.default_rng(derive_seed(self.seed, source, position))
        chosen = rng.choice(self.class_probability.size, p=self.class_probability)
        return int(rng.choice(self._images[chosen]))
