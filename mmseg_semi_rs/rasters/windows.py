# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Windows over large images, and the names that mmseg gives to tiles cut from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Edge = Literal['shift', 'pad']

# Tiles of mmseg's Potsdam benchmark: the training and test areas of the ISPRS challenge.
POTSDAM_TILES: dict[str, tuple[str, ...]] = {
    'train': (
        *('2_10', '2_11', '2_12', '3_10', '3_11', '3_12', '4_10', '4_11', '4_12', '5_10', '5_11'),
        *('5_12', '6_7', '6_8', '6_9', '6_10', '6_11', '6_12', '7_7', '7_8', '7_9', '7_10'),
        *('7_11', '7_12'),
    ),
    'val': (
        *('2_13', '2_14', '3_13', '3_14', '4_13', '4_14', '4_15', '5_13', '5_14', '5_15', '6_13'),
        *('6_14', '6_15', '7_13'),
    ),
}

_WINDOW_SUFFIX = re.compile(r'^(?P<stem>.+)_(\d+)_(\d+)_(\d+)_(\d+)$')


class Window(NamedTuple):
    """A rectangle of an image in pixels; ``x1`` and ``y1`` are exclusive.

    With ``edge='pad'`` it may extend beyond the right and lower edge of the image.
    """

    x0: int
    y0: int
    x1: int
    y1: int


def overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two rectangles (left, top, right, bottom) have an area in common."""
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )


def window_starts(length: int, window: int, stride: int, edge: Edge) -> list[int]:
    """Return the start positions of the windows that cover one axis.

    Args:
        length: Length of the image along the axis, in pixels.
        window: Length of a window in pixels.
        stride: Distance between two windows in pixels, at most ``window``.
        edge: Position of the last window if the stride does not divide the axis: ``'shift'`` moves
            it inside the image (where it overlaps its neighbour), ``'pad'`` lets it extend beyond
            the image. A window larger than the image always extends beyond it.

    Raises:
        ValueError: A length is not positive, the stride would leave gaps, or ``edge`` is unknown.
    """
    if min(length, window, stride) < 1:
        raise ValueError(
            f'Image length {length}, window {window} and stride {stride} must be at least 1 pixel.'
        )
    if stride > window:
        raise ValueError(
            f'A stride of {stride} is larger than the window of {window} and would leave gaps: '
            f'choose a stride of at most {window}.'
        )
    if edge not in ('shift', 'pad'):
        raise ValueError(f"edge must be 'shift' or 'pad', not {edge!r}.")
    if length <= window:
        return [0]
    starts = list(range(0, length - window + 1, stride))
    if starts[-1] + window < length:
        starts.append(length - window if edge == 'shift' else starts[-1] + stride)
    return starts


def tile_windows(
    width: int, height: int, window: int | None, stride: int | None = None, edge: Edge = 'shift'
) -> list[Window]:
    """Return the windows that cover an image, row by row from the upper left.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        window: Side of the square windows; None gives one window, the whole image.
        stride: Distance between windows. Defaults to ``window``.
        edge: See :func:`window_starts`.

    Examples:
        >>> tile_windows(96, 64, 64)
        [Window(x0=0, y0=0, x1=64, y1=64), Window(x0=32, y0=0, x1=96, y1=64)]
        >>> tile_windows(96, 64, 64, edge='pad')[1]
        Window(x0=64, y0=0, x1=128, y1=64)
    """
    if window is None:
        return [Window(0, 0, width, height)]
    step = window if stride is None else stride
    return [
        Window(x, y, x + window, y + window)
        for y in window_starts(height, window, step, edge)
        for x in window_starts(width, window, step, edge)
    ]


def cut_window(pixels: np.ndarray, window: Window, fill: int) -> np.ndarray:
    """Copy one window out of an image.

    Args:
        pixels: Image (H, W) or (H, W, C).
        window: Window to cut; it may extend beyond the right and lower edge.
        fill: Value of the pixels outside the image.

    Returns:
        Array (y1 - y0, x1 - x0) or (y1 - y0, x1 - x0, C) of the same dtype.
    """
    inside = pixels[window.y0 : window.y1, window.x0 : window.x1]
    shape = (window.y1 - window.y0, window.x1 - window.x0, *pixels.shape[2:])
    if inside.shape == shape:
        return np.ascontiguousarray(inside)
    cut = np.full(shape, fill, dtype=pixels.dtype)
    cut[: inside.shape[0], : inside.shape[1]] = inside
    return cut


def tile_name(stem: str, window: Window | None) -> str:
    """Return a tile's name ``<stem>_<x0>_<y0>_<x1>_<y1>``, as in mmseg's Potsdam converter."""
    return stem if window is None else '_'.join((stem, *map(str, window)))


def parse_tile_name(name: str) -> tuple[str, Window | None]:
    """Split a tile's name into its stem and window; the window is None for a whole image.

    A leading folder is dropped.

    Examples:
        >>> parse_tile_name('train/2_10_0_512_512_1024')
        ('2_10', Window(x0=0, y0=512, x1=512, y1=1024))
        >>> parse_tile_name('val/2522')
        ('2522', None)
    """
    base = name.rsplit('/', 1)[-1]
    match = _WINDOW_SUFFIX.match(base)
    if match is None:
        return base, None
    window = Window(*map(int, match.groups()[1:]))
    if window.x0 >= window.x1 or window.y0 >= window.y1:
        return base, None
    return match['stem'], window
