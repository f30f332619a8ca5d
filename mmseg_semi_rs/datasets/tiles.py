# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiles as they are stored, neither augmented nor padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import BaseTransform, LoadAnnotations

from ..rasters.levels import levels_to_rgb
from .transforms.keep_in_memory import KeepInMemory


class Tile(NamedTuple):
    """A stored tile.

    Attributes:
        path: Its file.
        image: Shape (H, W, 3), uint8, RGB.
        labels: Shape (H, W), uint8, class ids as in training; None if the dataset loads none.
    """

    path: str
    image: np.ndarray
    labels: np.ndarray | None


def load_tile(
    dataset: Any, index: int, with_labels: bool = True, bands: Sequence[int] | None = None
) -> Tile:
    """Load a tile with only the loading transforms of its dataset's pipeline.

    Args:
        dataset (BaseSegDataset | ConcatDataset | RepeatDataset): A dataset with a pipeline;
            ``SemiDataset`` and its parts too.
        index: In ``[0, len(dataset))``.
        with_labels: Whether to load labels, if the pipeline does.
        bands: For multi-band images, the positions, from 0, of red, green and blue. Defaults to the
            bands that pictures show.

    Returns:
        The stored tile, with ``reduce_zero_label`` and ``label_map`` applied to the labels.

    Raises:
        FileNotFoundError: If a file of the tile does not exist.
        ValueError: If a file cannot be read, is not a picture of 1, 3 or 4 bands, or does not have
            one label per pixel.
    """
    dataset, index = _leaf(dataset, index)
    info = dataset.get_data_info(index)
    path = str(info['img_path'])
    results = _load(dataset, info, path, with_labels)
    image, labels = _rgb(results, path, bands), results.get('gt_seg_map')
    if labels is not None and labels.shape != image.shape[:2]:
        raise ValueError(
            f'The labels {info["seg_map_path"]} of shape {labels.shape} do not fit their image of '
            f'{image.shape[:2]} pixels: convert the data set again.'
        )
    return Tile(path, image, labels)


def load_image(dataset: Any, path: str, bands: Sequence[int] | None = None) -> np.ndarray:
    """Load the image of a tile of which only the file is known.

    Args:
        dataset (BaseSegDataset | ConcatDataset | RepeatDataset): The dataset of the tile. If it
            contains several, the loading transforms of the first are used.
        path: File of the tile.
        bands: See :func:`load_tile`.

    Returns:
        Shape (H, W, 3), uint8, RGB, as in :func:`load_tile`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it cannot be read, or is not a picture of 1, 3 or 4 bands.
    """
    leaf, _ = _leaf(dataset, 0)
    return _rgb(_load(leaf, {'img_path': path}, path, False), path, bands)


def band_reading(dataset: Any) -> str | None:
    """Describe how multi-band images of a dataset are read.

    Args:
        dataset (BaseSegDataset | ConcatDataset | RepeatDataset): A dataset with a pipeline.

    Returns:
        A text that changes with the bands and their stretch; None if ``LoadBands`` is not used.
    """
    leaf, _ = _leaf(dataset, 0)
    found = [repr(step) for step in loading_steps(leaf.pipeline.transforms)]
    return next((text for text in found if text.startswith('LoadBands')), None)


def tile_paths(dataset: Any) -> list[str]:
    """Return the files of all tiles of a dataset in its order.

    Args:
        dataset (BaseSegDataset | ConcatDataset | RepeatDataset): Repeated tiles occur repeatedly.

    Returns:
        One path per index.
    """
    return [str(dataset.get_data_info(index)['img_path']) for index in range(len(dataset))]


def _leaf(dataset: Any, index: int) -> tuple[Any, int]:
    """Find the dataset inside wrappers that a sample comes from, and its index there."""
    while True:
        if getattr(dataset, 'datasets', None) is not None:
            for part in dataset.datasets:
                if index < len(part):
                    break
                index -= len(part)
            dataset = part
        elif getattr(dataset, 'dataset', None) is not None:
            dataset = dataset.dataset
            index %= len(dataset)
        else:
            return dataset, index


def loading_steps(transforms: Iterable[BaseTransform]) -> Iterator[BaseTransform]:
    """Yield the transforms of a pipeline that load something, also from inside ``KeepInMemory``."""
    for transform in transforms:
        if isinstance(transform, KeepInMemory):
            yield from loading_steps(transform.transforms.transforms)
        elif type(transform).__name__.startswith('Load') or isinstance(transform, LoadAnnotations):
            yield transform


def _load(dataset: Any, info: dict, path: str, with_labels: bool) -> dict:
    """Run the loading transforms, which do not depend on the transforms between them."""
    for transform in loading_steps(dataset.pipeline.transforms):
        if isinstance(transform, LoadAnnotations) and not with_labels:
            continue
        reads = info.get('seg_map_path') if isinstance(transform, LoadAnnotations) else path
        try:
            info = transform(info)
        except Exception as error:  # each decoder raises its own errors
            if isinstance(error, FileNotFoundError) or not Path(str(reads)).exists():
                raise FileNotFoundError(
                    f'{reads} of the tile {path} does not exist: correct the list that names it.'
                ) from error
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())
            raise ValueError(
                f'{reads} of the tile {path} cannot be read ({reason}): convert the data set again.'
            ) from error
    if info is None or info.get('img') is None:
        names = [type(transform).__name__ for transform in dataset.pipeline.transforms]
        raise ValueError(
            f'The tile {path} cannot be loaded by the pipeline {names}: let it begin with '
            'LoadImageFromFile or another transform whose name begins with Load.'
        )
    return info


def _rgb(results: dict, path: str, bands: Sequence[int] | None) -> np.ndarray:
    """Convert the result of a loader to (H, W, 3) uint8 RGB.

    For multi-band images the requested bands are taken, or those that pictures show. Other images
    are BGR; of 16 bits the upper 8 are kept, as OpenCV does for colour images.
    """
    image, shown = results['img'], results.get('rgb_channels')
    if shown is not None:
        channels = list(shown if bands is None else bands)
        if len(channels) != 3 or not 0 <= min(channels) <= max(channels) < image.shape[2]:
            raise ValueError(
                f'The tile {path} has {image.shape[2]} bands, of which {channels} were asked for: '
                'give the positions of red, green and blue, from 0.'
            )
        return levels_to_rgb(image, channels)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype == np.uint16:
        image = image >> 8
    elif image.dtype.kind == 'f' and image.min() >= 0 and image.max() <= 255:
        image = np.rint(image)
    elif image.dtype != np.uint8:
        raise ValueError(
            f'The tile {path} is loaded as {image.dtype} from {image.min()} to {image.max()}: let '
            'its pipeline load 8 or 16 bits.'
        )
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(
            f'The tile {path} is loaded with shape {image.shape}: let its pipeline load 1 band, 3, '
            'or 4 of which the last is left out.'
        )
    bands = [0, 0, 0] if image.shape[2] == 1 else [2, 1, 0]
    return np.ascontiguousarray(image[..., bands].astype(np.uint8))
