# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Prediction of images of any size in bounded memory, by overlapping windows and strip by strip."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..rasters.grid import Axis
from ..rasters.sources import Source
from .predictor import NO_DATA, Predictor

MEMORY = 256 * 2**20  # bytes of probabilities that are accumulated at a time

_T = TypeVar('_T')


@dataclass(frozen=True)
class Strip:
    """A finished rectangle of the map.

    Attributes:
        number: Number of the strip, from 0.
        top: First row.
        left: First column.
        labels: Class ids, (h, w) uint8; 255 where the image has no data.
        confidence: Probability of that class in 255ths, rounded, (h, w) uint8; 0 where the image
            has no data.
        probabilities: Probabilities of all classes in 255ths, (K, h, w) uint8, if requested.
    """

    number: int
    top: int
    left: int
    labels: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class _Panel:
    """Columns ``left`` to ``right`` of the map, and the windows that contribute to them."""

    left: int
    right: int
    windows: range


class Mosaic:
    """The windows of one image, and the order in which they are predicted.

    Windows go from left to right and from top to bottom. Their probabilities, weighted as in
    :class:`~mmseg_semi_rs.rasters.grid.Axis`, are summed up on the model's device for one row of
    windows at a time; rows of pixels that no further window reaches are finished and leave as a
    strip. If a row needs more than ``memory``, the image is divided into panels of columns; windows
    across the border of two panels are predicted for each. So memory does not depend on the size of
    the image, and the result does not depend on the panels. Windows without data are skipped.

    An image smaller than a window is mirrored at its lower and right edge.

    Args:
        predictor: Predicts the windows.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        memory: Bytes for the sums. Defaults to 256 MiB.

    Attributes:
        strips: Number of strips.
        windows: Number of windows, including those without data.
    """

    def __init__(self, predictor: Predictor, width: int, height: int, memory: int = MEMORY) -> None:
        self.predictor = predictor
        self.width, self.height = width, height
        self._x = Axis.cover(width, predictor.window, predictor.overlap)
        self._y = Axis.cover(height, predictor.window, predictor.overlap)
        column = 4 * len(predictor.classes) * predictor.window
        extent = max(memory // column - 2 * predictor.window, 2 * predictor.window)
        count = -(-width // extent)
        edges = [round(index * width / count) for index in range(count + 1)]
        self._panels = [
            _Panel(left, right, self._x.between(left, right)) for left, right in pairwise(edges)
        ]
        self.strips = len(self._panels) * len(self._y.starts)
        self.windows = sum(len(panel.windows) for panel in self._panels) * len(self._y.starts)

    def windows_of(self, number: int) -> int:
        """Return the number of windows in the row of windows that completes a strip."""
        return len(self._panels[number // len(self._y.starts)].windows)

    def predict(
        self, source: Source, done: Collection[int] = (), probabilities: bool = False
    ) -> Iterator[Strip]:
        """Predict the strips that are not done yet, bit for bit as in a run over all strips.

        Args:
            source: The image, read by a separate thread one row of windows ahead.
            done: Numbers of the strips to leave out. Defaults to none.
            probabilities: Whether strips hold the probabilities of all classes.

        Yields:
            The strips in the order of their numbers.
        """
        rows = len(self._y.starts)
        for index, panel in enumerate(self._panels):
            wanted = [row for row in range(rows) if index * rows + row not in done]
            if not wanted:
                continue
            first = self._y.between(self._y.starts[wanted[0]], self._y.length)[0]
            sums = _Sums(self.predictor, self._x, panel)
            reading = self._read(source, sums, range(first, wanted[-1] + 1))
            for row, pixels, valid in ahead(reading):
                top = self._y.starts[row]
                bottom = self._y.starts[row + 1] if row + 1 < rows else self._y.length
                sums.add(pixels, valid, self._y.weights[row])
                if row in wanted:
                    here = slice(None, min(bottom, self.height) - top)
                    yield sums.finish(index * rows + row, top, here, valid, probabilities)
                sums.move(bottom - top)

    def _read(
        self, source: Source, sums: _Sums, rows: range
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Read rows of windows, and each pixel only once.

        Yields:
            The row's number; its pixels, (window, w, C); and its mask of valid data, (window, w)
            bool.
        """
        window, below = self._y.window, 0
        right = min(sums.right, self.width)
        pixels = valid = np.empty(0)
        for row in rows:
            top = self._y.starts[row]
            bottom = min(top + window, self.height)
            keep = max(below - top, 0)
            more, more_valid = source.read(top + keep, bottom, sums.left, right)
            pixels = np.concatenate([pixels[-keep:], more]) if keep else more
            valid = np.concatenate([valid[-keep:], more_valid]) if keep else more_valid
            below = bottom
            yield row, *mirror(pixels, valid, window, sums.right - sums.left)


def mirror(
    pixels: np.ndarray, valid: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge an image to a size by mirroring it at its lower and right edge.

    Args:
        pixels: (h, w, C).
        valid: Mask of valid data, (h, w) bool; extended by False.
        height: Height of the result, at least h.
        width: Width of the result, at least w.

    Returns:
        The enlarged pixels and mask.
    """
    missing = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]))
    if missing == ((0, 0), (0, 0)):
        return pixels, valid
    return np.pad(pixels, (*missing, (0, 0)), mode='symmetric'), np.pad(valid, missing)


class _Sums:
    """Weighted sums of probabilities of one row of windows in a panel, on the model's device."""

    def __init__(self, predictor: Predictor, axis: Axis, panel: _Panel) -> None:
        self.predictor = predictor
        self.axis = axis
        self.panel = panel
        self.left = axis.starts[panel.windows[0]]
        self.right = axis.starts[panel.windows[-1]] + axis.window
        self.sums = torch.zeros(
            (len(predictor.classes), axis.window, self.right - self.left), device=predictor.device
        )
        self.weights = torch.from_numpy(axis.weights).to(predictor.device)

    @torch.inference_mode()
    def add(self, pixels: np.ndarray, valid: np.ndarray, weight: np.ndarray) -> None:
        """Predict a row of windows and add their weighted probabilities.

        Args:
            pixels: (window, w, C).
            valid: Mask of valid data, (window, w) bool.
            weight: Weight of each row of pixels, (window,) float32.
        """
        predictor, side = self.predictor, self.axis.window
        images = torch.from_numpy(pixels).to(predictor.device).permute(2, 0, 1)
        rows = torch.from_numpy(weight).to(predictor.device)
        begins = [(index, self.axis.starts[index] - self.left) for index in self.panel.windows]
        begins = [(index, x) for index, x in begins if valid[:, x : x + side].any()]
        for batch in batches(begins, predictor.batch_size):
            windows = torch.stack([images[:, :, x : x + side] for _, x in batch])
            for (index, x), found in zip(batch, predictor.probabilities(windows), strict=True):
                weights = rows[:, None] * self.weights[index]
                self.sums[:, :, x : x + side].addcmul_(found, weights)

    @torch.inference_mode()
    def finish(
        self, number: int, top: int, here: slice, valid: np.ndarray, probabilities: bool
    ) -> Strip:
        """Turn the uppermost rows into a strip of the map.

        Args:
            number: Number of the strip.
            top: First row of the windows in the map.
            here: Rows of the strip, counted from ``top``.
            valid: Mask of valid data, (window, w) bool.
            probabilities: Whether the strip holds the probabilities of all classes.
        """
        columns = slice(self.panel.left - self.left, self.panel.right - self.left)
        sums, nothing = self.sums[:, here, columns], ~valid[here, columns]
        return make_strip(sums, nothing, probabilities, number, top, self.panel.left)

    def move(self, down: int) -> None:
        """Move on to the next row of windows, ``down`` pixels below."""
        kept = self.sums[:, down:].clone()
        self.sums[:, : kept.shape[1]] = kept
        self.sums[:, kept.shape[1] :] = 0


def make_strip(
    shares: Tensor,
    nothing: np.ndarray,
    probabilities: bool,
    number: int = 0,
    top: int = 0,
    left: int = 0,
) -> Strip:
    """Turn probabilities into a strip of the map.

    Args:
        shares: Probabilities, (K, h, w) in [0, 1].
        nothing: Where the image has no data, (h, w) bool.
        probabilities: Whether the strip holds the probabilities of all classes.
        number: Number of the strip. Like the next two, defaults to 0; see :class:`Strip`.
        top: First row.
        left: First column.
    """
    confidence, labels = shares.max(0)
    ids, sure = labels.to(torch.uint8).cpu().numpy(), _levels(confidence)
    ids[nothing], sure[nothing] = NO_DATA, 0
    every = _levels(shares) if probabilities else None
    if every is not None:
        every[:, nothing] = 0
    return Strip(number, top, left, ids, sure, every)


def _levels(shares: Tensor) -> np.ndarray:
    """Round probabilities in [0, 1] to whole 255ths."""
    return (shares * 255).round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()


def batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Divide items into batches; the last may be smaller."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def ahead(items: Iterator[_T]) -> Iterator[_T]:
    """Compute the next item in a thread while the current one is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
