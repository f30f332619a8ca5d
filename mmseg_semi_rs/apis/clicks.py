# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Choice of the pixels of a tile that a person should label with clicks."""

from __future__ import annotations

import re

import cv2
import numpy as np

_REGIONS = 4  # superpixels per click
_FEWEST = 16  # smallest number of superpixels of a tile


def count_clicks(text: str, pixels: int) -> int:
    """Parse the number of pixels to click, which is at least one.

    Args:
        text: A number, or a share of the tile's pixels such as ``0.05%``.
        pixels: Number of pixels of the tile.

    Raises:
        ValueError: The text is neither a positive number nor a share in (0, 100] percent.

    Examples:
        >>> count_clicks('12', 4096), count_clicks('0.05%', 512 * 512)
        (12, 131)
    """
    if re.fullmatch(r'[1-9]\d*', text):
        return min(int(text), pixels)
    share = re.fullmatch(r'(\d*\.?\d+)%', text)
    if share is None or not 0 < float(share[1]) <= 100:
        raise ValueError(
            f'{text!r} is no number of clicks: give one such as 20, or a share such as 0.05%.'
        )
    return max(1, round(pixels * float(share[1]) / 100))


def choose_clicks(
    image: np.ndarray,
    count: int,
    probabilities: np.ndarray | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Choose the pixels of a tile whose labels tell most about the rest of the tile.

    The tile is divided into superpixels (SLIC), each of which gets at most one click, on its pixel
    farthest from the border: there a person can recognise the class, and a small slip does no harm.
    Given the probabilities of a network, the predicted classes take turns, each offering its
    superpixel of the highest mean entropy. Otherwise the mean colours are clustered into ``count``
    groups (k-means), which take turns, each offering the superpixel nearest to its centre.

    Args:
        image: RGB, (H, W, 3) uint8.
        count: Number of clicks.
        probabilities: Class probabilities predicted by a network, (K, H, W).
        valid: Where the tile has data, (H, W) bool; None for everywhere.

    Returns:
        Row and column of each click in the order of choice, (n, 2) int64. n is less than ``count``
        where the tile has fewer superpixels with data.

    Raises:
        ImportError: scikit-image is not installed.
    """
    regions = _superpixels(image, max(_REGIONS * count, _FEWEST))
    number = int(regions.max()) + 1
    flat = regions.ravel()
    areas = np.bincount(flat, minlength=number)
    places = _deepest(regions)
    if valid is not None:
        places = places[valid[places[:, 0], places[:, 1]]]
    kept = regions[places[:, 0], places[:, 1]]

    def means(values: np.ndarray) -> np.ndarray:
        sums = [np.bincount(flat, row.ravel(), number) for row in values]
        return (np.stack(sums, 1) / areas[:, None])[kept]

    if probabilities is None:
        colour = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).transpose(2, 0, 1)
        groups, needs = _colour_groups(means(colour).astype(np.float32), count)
    else:
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(0)
        groups, needs = means(probabilities).argmax(1), means(entropy[None])[:, 0]
    return places[_in_turn(groups, needs, count)]


def _superpixels(image: np.ndarray, number: int) -> np.ndarray:
    """Divide an image into about ``number`` superpixels, (H, W), numbered from 0 without gaps."""
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError(
            'Clicks are spread over the superpixels of scikit-image, which is not installed: pip '
            "install 'mmseg_semi_rs[regions]'."
        ) from error
    found = slic(
        image,
        n_segments=min(number, image[..., 0].size),
        compactness=10,
        sigma=1,
        min_size_factor=0.2,
        start_label=0,
    )
    return np.unique(found, return_inverse=True)[1].reshape(found.shape)


def _colour_groups(colours: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster colours (R, 3); return groups (R,) and negative distances to their centres (R,)."""
    if len(colours) <= count:
        return np.arange(len(colours)), np.zeros(len(colours))
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 0.1)
    _, groups, centres = cv2.kmeans(
        colours,
        count,
        None,  # type: ignore[arg-type]
        stop,
        3,
        cv2.KMEANS_PP_CENTERS,
    )
    groups = groups[:, 0]
    return groups, -np.linalg.norm(colours - centres[groups], axis=1)


def _deepest(regions: np.ndarray) -> np.ndarray:
    """Return the pixel of each region that is farthest from the region's border, (R, 2)."""
    padded = np.pad(regions, 1, constant_values=-1)
    inner = np.ones(regions.shape, np.uint8)
    for shifted in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        inner &= shifted == regions
    depth = cv2.distanceTransform(inner, cv2.DIST_L2, 3)
    order = np.lexsort((-depth.ravel(), regions.ravel()))
    first = order[np.searchsorted(regions.ravel()[order], np.arange(regions.max() + 1))]
    return np.stack(np.unravel_index(first, regions.shape), 1)


def _in_turn(groups: np.ndarray, needs: np.ndarray, count: int) -> list[int]:
    """Take the neediest regions from the groups in turn, beginning with the smallest group."""
    queues = [
        sorted(np.flatnonzero(groups == group), key=lambda index: -needs[index])
        for group in np.unique(groups)
    ]
    queues.sort(key=len)
    turns = [int(queue[turn]) for turn in range(count) for queue in queues if turn < len(queue)]
    return turns[:count]
