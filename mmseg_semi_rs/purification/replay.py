# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Evidence of whole tiles, replayed into the frames of a batch on the model's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from .evidence import FULL_SCORE, Evidence, Region, covered_pixels


class Frame(NamedTuple):
    """Which pixel of its tile each pixel of a sample shows.

    Resizing, cropping and flipping treat rows and columns independently, so any sequence of them is
    one index per row and one per column. A rotation needs one per pixel.

    Attributes:
        rows: Tile row of each sample row, shape (h, 1), or of each sample pixel, shape (h, w);
            int64, -1 outside the tile.
        columns: Tile column likewise, shape (1, w) or (h, w).
    """

    rows: np.ndarray
    columns: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the sample in pixels."""
        return self.rows.shape[0], self.columns.shape[1]


class Replayed(NamedTuple):
    """Evidence in the frames of a batch.

    Attributes:
        scores: Shape (B, K, H, W), float32 in [0, 1]; 0 where there is no evidence.
        seen: Shape (B, H, W), bool; False on padding and where there is no evidence.
        regions: Number of the region at each pixel, counted from 1 in each image, 0 for none; shape
            (B, H, W), int64. It comes from the tile's map of regions or, without one, is the
            verifier's region with the highest score.
        most_regions: Highest region number of any image, known without asking the device.
    """

    scores: Tensor
    seen: Tensor
    regions: Tensor
    most_regions: int


def frame_of(steps: Sequence[tuple[str, Sequence[int]]], size: tuple[int, int]) -> Frame:
    """Follow recorded steps as nearest-neighbour interpolation of a label map does.

    Args:
        steps: ``geometry`` of a sample's metainfo, as ``TrackGeometry`` recorded it.
        size: Height and width of the tile in pixels.

    Returns:
        Frame of the sample, without the padding of its batch.
    """
    # float32 represents every index of an image exactly, and every OpenCV can resize it.
    rows = np.arange(size[0], dtype=np.float32)[:, None]
    columns = np.arange(size[1], dtype=np.float32)[None]
    separable = True
    for op, params in steps:
        if op == 'gather':
            rows, columns = (
                np.where(params[0] < 0, np.float32(-1), index[tuple(params)])
                for index in np.broadcast_arrays(rows, columns)
            )
            separable = False
            continue
        rows = _follow(rows, op, params, (True, not separable))
        columns = _follow(columns, op, params, (not separable, True))
    return Frame(rows.astype(np.int64), columns.astype(np.int64))


def _follow(
    index: np.ndarray, op: str, params: Sequence[int], varies: tuple[bool, bool]
) -> np.ndarray:
    """Resize, crop or flip a map of indices along the axes on which they vary."""
    if op == 'resize':
        height, width = (
            length if along else 1 for length, along in zip(params, varies, strict=True)
        )
        return cv2.resize(index, (width, height), interpolation=cv2.INTER_NEAREST)
    if op == 'crop':
        top, left, height, width = params
        parts = [slice(top, top + height), slice(left, left + width)]
    else:
        turned = [params[0] in (1, 2), params[0] in (0, 2)]  # top to bottom, left to right
        parts = [slice(None, None, -1 if turn else 1) for turn in turned]
    whole = slice(None)
    return index[tuple(part if along else whole for part, along in zip(parts, varies, strict=True))]


def replay_evidence(
    found: Sequence[Evidence | None],
    frames: Sequence[Frame],
    num_classes: int,
    size: tuple[int, int],
    device: torch.device | str,
    with_regions: bool = False,
) -> Replayed:
    """Replay evidence into a batch, without making the host wait for the device.

    A grid of the tile's own size is read at the nearest pixel, which is exact for label maps; a
    coarser grid is interpolated between the centres of its cells.

    Args:
        found: Evidence of each image's tile; None for tiles without.
        frames: Frame of each image.
        num_classes: Number of classes K.
        size: Height and width of the batch in pixels. Pixels to the right of or below a frame are
            padding.
        device: Device of the result.
        with_regions: Whether to replay regions too; otherwise there are none.

    Returns:
        The evidence, on the device.
    """
    scores = torch.zeros(len(frames), num_classes, *size, device=device)
    seen = torch.zeros(len(frames), *size, dtype=torch.bool, device=device)
    numbers = np.zeros((len(frames), *size) if with_regions else 1, np.int32)
    for index, (evidence, frame) in enumerate(zip(found, frames, strict=True)):
        if evidence is None:
            continue
        area = (index, slice(frame.size[0]), slice(frame.size[1]))
        if evidence.num_classes:
            inside = _to(frame.rows >= 0, device)
            scores[(index, slice(None), *area[1:])] = _scores(evidence, frame, device)
            nearest = [
                (2 * positions + 1) * cells // (2 * pixels)  # the cell of a pixel's centre
                for positions, cells, pixels in zip(
                    frame, evidence.seen.shape, evidence.size, strict=True
                )
            ]
            seen[area] = _gather(evidence.seen, nearest, device) & inside
        if with_regions and evidence.num_regions:
            numbers[area] = _region_numbers(evidence, frame)
    regions = _to(numbers, device).long().expand(len(frames), *size)
    most = max((evidence.num_regions for evidence in found if evidence is not None), default=0)
    return Replayed(scores, seen, regions, most)


def replay_labelled(
    labelled: Iterable[tuple[Evidence, np.ndarray]], num_classes: int, cut: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield the evidence of whole labelled tiles with the ground truth, to learn from.

    Args:
        labelled: Evidence of tiles, and their label maps (H, W), uint8, with ids outside ``[0,
            num_classes)`` where there is no label.
        num_classes: Number of classes K.
        cut: Whether regions are cut to the true segments, see :func:`within_segments`.

    Yields:
        For each tile the scores (K, H, W), where they are seen (H, W), the true class ids (H, W),
        int64, and where these are known (H, W).
    """
    for evidence, labels in labelled:
        truth = torch.from_numpy(labels.astype(np.int64))
        known = (truth >= 0) & (truth < num_classes)
        frame = frame_of((), evidence.size)
        found = replay_evidence([evidence], [frame], num_classes, evidence.size, 'cpu', cut)
        seen = found.seen[0]
        if cut:
            seen = seen & within_segments(found, torch.where(known, truth, 0)[None], known[None])[0]
        yield found.scores[0], seen, truth, known


def region_map(regions: Sequence[Region], size: tuple[int, int]) -> np.ndarray:
    """Map each pixel of a tile to its region with the highest score.

    Args:
        regions: Regions in the tile's frame.
        size: Height and width of the tile in pixels.

    Returns:
        Shape (H, W), int64, the region's number counted from 1; 0 for none.
    """
    painted = np.zeros(size, dtype=np.int64)
    for number in sorted(range(len(regions)), key=lambda index: regions[index].score):
        painted[covered_pixels(regions[number].box)] = number + 1
    return painted


def within_segments(found: Replayed, labels: Tensor, valid: Tensor) -> Tensor:
    """Pixels whose label is the most frequent one of their region.

    Args:
        found: Evidence with regions.
        labels: Labels of the same images, shape (B, H, W), int64, in [0, K).
        valid: Which pixels count, shape (B, H, W), bool.

    Returns:
        Shape (B, H, W), bool; False outside all regions.
    """
    votes = count_votes(labels, valid, found.regions, found.most_regions, found.scores.shape[1])
    usual = votes.argmax(dim=2).gather(1, found.regions.flatten(1)).view_as(labels)
    return (usual == labels) & (found.regions > 0)


def count_votes(
    labels: Tensor, valid: Tensor, regions: Tensor, num_regions: int, num_classes: int
) -> Tensor:
    """Count the valid pixels of each class in each region.

    Args:
        labels: Shape (B, H, W), int64, in [0, K).
        valid: Shape (B, H, W), bool.
        regions: Numbers in [0, ``num_regions``], shape (B, H, W), int64.
        num_regions: R.
        num_classes: K.

    Returns:
        Shape (B, R + 1, K), float32; row 0 counts the pixels without a region.
    """
    counts = torch.zeros(len(labels), (num_regions + 1) * num_classes, device=labels.device)
    where = regions.flatten(1) * num_classes + labels.flatten(1)
    counts.scatter_add_(1, where, valid.flatten(1).float())
    return counts.unflatten(1, (-1, num_classes))


def _region_numbers(evidence: Evidence, frame: Frame) -> np.ndarray:
    """Region numbers of one tile in a sample's frame, (h, w).

    The lookup on the host takes a tenth of the time of moving the map to the device first.
    """
    ids = evidence.region_ids
    if ids is None:
        ids = region_map(evidence.regions, evidence.size)
    rows, columns = frame
    if rows.shape[1] == 1 and columns.shape[0] == 1:
        shown = ids[rows[:, 0]][:, columns[0]]
    else:
        shown = ids[rows, columns]
    return np.where(rows < 0, 0, shown)


def _scores(evidence: Evidence, frame: Frame, device: Any) -> Tensor:
    """Scores of one tile in a sample's frame, (K, h, w)."""
    # Unseen cells get score 0, so that interpolation does not spread their scores to seen ones.
    values = _to(evidence.scores * evidence.seen, device).float() / FULL_SCORE
    if evidence.seen.shape == evidence.size:
        values = _gather(values, frame, device)
    else:
        (top, bottom, down), (left, right, along) = (
            _cells(positions, cells, pixels)
            for positions, cells, pixels in zip(
                frame, evidence.seen.shape, evidence.size, strict=True
            )
        )
        upper, lower = (
            torch.lerp(
                _gather(values, (row, left), device),
                _gather(values, (row, right), device),
                _to(along, device),
            )
            for row in (top, bottom)
        )
        values = torch.lerp(upper, lower, _to(down, device))
    return values * _to(frame.rows >= 0, device)


def _cells(
    positions: np.ndarray, cells: int, pixels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two nearest cells of a grid for each pixel, and the weight of the second."""
    centre = np.clip((positions + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    lower = np.floor(centre).astype(np.int64)
    return lower, np.minimum(lower + 1, cells - 1), (centre - lower).astype(np.float32)


def _to(array: np.ndarray, device: Any) -> Tensor:
    """Copy to a device; for a GPU from pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if torch.device(device).type == 'cuda':
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _gather(image: np.ndarray | Tensor, places: Sequence[np.ndarray], device: Any) -> Tensor:
    """Take the pixels at rows and columns, which broadcast, of an image (..., H, W)."""
    rows, columns = (_to(np.maximum(index, 0), device) for index in places)
    tensor = image if isinstance(image, Tensor) else _to(image, device)
    if rows.shape[1] == 1 and columns.shape[0] == 1:  # twice as fast as pixel by pixel
        return tensor.index_select(-2, rows[:, 0]).index_select(-1, columns[0])
    return tensor[..., rows, columns]
