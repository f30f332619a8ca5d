# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Boxes of vision-language models in pixels of the tile, and evidence painted from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evidence import Region, covered_pixels

Box = tuple[float, float, float, float]
Size = tuple[int, int]

#: Coordinate convention -> extent of the image in it; None for pixels of the model's input.
COORDINATES: dict[str, float | None] = {'absolute': None, 'thousand': 1000.0, 'unit': 1.0}

#: ``model_type`` of a model's config -> the convention it was trained with.
NATIVE_COORDINATES = {
    'qwen2_vl': 'thousand',
    'qwen2_5_vl': 'absolute',
    'qwen3_vl': 'thousand',
    'qwen3_vl_moe': 'thousand',
}


def processed_size(inputs: Mapping[str, Any], index: int, image_processor: Any, tile: Size) -> Size:
    """Height and width to which a processor resized an image.

    Args:
        inputs: The processor's output for a batch with one image per text.
        index: Index of the image.
        image_processor: The image processor, for its settings.
        tile: Height and width of the tile in pixels.

    Returns:
        The size from the grid of patches if the model has one, else the size to which all images
        are resized, else that of the tile.
    """
    if 'image_grid_thw' in inputs:
        _, rows, columns = (int(count) for count in inputs['image_grid_thw'][index])
        return rows * image_processor.patch_size, columns * image_processor.patch_size
    size = getattr(image_processor, 'size', None) or {}
    if 'height' in size and 'width' in size:
        return int(size['height']), int(size['width'])
    return tile


def to_tile(box: Box, coordinates: str, processed: Size, tile: Size) -> Box | None:
    r"""Convert a box from the model's frame to pixels of the tile, and clip it.

    .. math:: x_{tile} = x \cdot W_{tile} / W_{frame}

    where the frame is the resized image for absolute coordinates, 1000 or 1 for relative ones.

    Args:
        box: Left, top, right, bottom.
        coordinates: A key of :data:`COORDINATES`.
        processed: Height and width of the model's input in pixels.
        tile: Height and width of the tile in pixels.

    Returns:
        The box, or None if it covers no pixel of the tile.
    """
    extent = COORDINATES[coordinates]
    height, width = processed if extent is None else (extent, extent)
    left, right = (min(max(x * tile[1] / width, 0.0), tile[1]) for x in box[::2])
    top, bottom = (min(max(y * tile[0] / height, 0.0), tile[0]) for y in box[1::2])
    rows, columns = covered_pixels((left, top, right, bottom))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    return left, top, right, bottom


def paint(
    regions: Sequence[Region],
    masks: Sequence[np.ndarray] | None,
    num_classes: int,
    tile: Size,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint regions: the evidence of a class is the highest score of its regions at a pixel.

    The result does not depend on the order of the regions, and classes do not hide each other. If
    two classes claim a pixel, both keep their scores, and the policy decides between them.

    Args:
        regions: Regions in the tile's frame.
        masks: One for each region, shape (H, W), bool; None to fill the boxes.
        num_classes: Number of classes K.
        tile: Height H and width W of the tile in pixels.

    Returns:
        Scores of shape (K, H, W), float32 in [0, 1], and where there is any region, shape (H, W),
        bool.
    """
    scores = np.zeros((num_classes, *tile), dtype=np.float32)
    seen = np.zeros(tile, dtype=bool)
    for index, region in enumerate(regions):
        place = covered_pixels(region.box) if masks is None else masks[index]
        scores[region.label][place] = np.maximum(scores[region.label][place], region.score)
        seen[place] = True
    return scores, seen
