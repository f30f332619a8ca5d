# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Recorded geometry: what was done to a tile can be replayed on any map of that tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmcv.transforms import (
    BaseTransform,
    Pad,
    RandomChoiceResize,
    RandomFlip,
    RandomResize,
    Resize,
)
from mmcv.transforms.utils import cache_random_params
from mmseg.datasets.transforms import (
    RandomCrop,
    RandomRotate,
    RandomRotFlip,
    ResizeShortestEdge,
    ResizeToMultiple,
)
from mmseg.registry import TRANSFORMS


class GeometryStep(NamedTuple):
    """One geometric operation.

    Attributes:
        op: ``'resize'`` with params (height, width); ``'crop'`` with params (top, left, height,
            width); ``'flip'`` with params (0,) horizontal, (1,) vertical, (2,) both axes;
            ``'gather'`` with params (rows, columns), (h, w) int32 each: the previous row and column
            of each pixel, -1 if it comes from outside.
        params: See ``op``; all in pixels.
    """

    op: str
    params: tuple[Any, ...]


_FLIPS = {'horizontal': 0, 'vertical': 1, 'diagonal': 2}


def replay(image: np.ndarray, steps: Sequence[GeometryStep], interpolation: str = 'nearest') -> Any:
    """Apply recorded steps to a map of the whole tile.

    Args:
        image: Shape (H, W) or (H, W, C), of the tile's size.
        steps: As ``TrackGeometry`` recorded them.
        interpolation: Interpolation of resize steps. The default 'nearest' gives for a label map
            exactly the result of the pipeline.

    Returns:
        np.ndarray: The map in the sample's frame (without batch padding).
    """
    for op, params in steps:
        if op == 'resize':
            image = mmcv.imresize(image, params[::-1], interpolation=interpolation, backend='cv2')
        elif op == 'crop':
            top, left, height, width = params
            image = image[top : top + height, left : left + width]
        elif op == 'gather':
            image = gather(image, *params)
        else:
            direction = next(name for name, code in _FLIPS.items() if (code,) == params)
            image = mmcv.imflip(image, direction=direction)
    return image


def gather(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, fill: int = 255) -> np.ndarray:
    """Take each pixel from its previous position; use ``fill`` if there is none."""
    moved = image[rows, columns]
    moved[rows < 0] = fill
    return moved


def _affine(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Fit the affine matrix from previous to new positions to pixels that an affine map moved."""
    places = np.nonzero(rows >= 0)
    some = slice(None, None, max(1, len(places[0]) // 1000))
    inside = (places[0][some], places[1][some])
    after = np.stack([inside[1] + 0.5, inside[0] + 0.5], axis=1)
    before = np.stack([columns[inside] + 0.5, rows[inside] + 0.5, np.ones(len(after))], axis=1)
    matrix = np.eye(3)
    matrix[:2] = np.linalg.lstsq(before, after, rcond=None)[0].T
    return matrix


def homography(steps: Sequence[GeometryStep], size: tuple[int, int]) -> np.ndarray:
    """Compose recorded steps into one matrix from tile to sample coordinates.

    Coordinates are continuous: the top-left pixel covers [0, 1) x [0, 1).

    Args:
        steps: As ``TrackGeometry`` recorded them.
        size: Height and width of the tile in pixels.

    Returns:
        Shape (3, 3), float64, acting on column vectors (x, y, 1).
    """
    height, width = size
    matrix = np.eye(3)
    for op, params in steps:
        step = np.eye(3)
        if op == 'resize':
            step[0, 0], step[1, 1] = params[1] / width, params[0] / height
            height, width = params
        elif op == 'crop':
            step[0, 2], step[1, 2] = -params[1], -params[0]
            height, width = min(params[2], height), min(params[3], width)
        elif op == 'gather':
            step = _affine(*params)
            height, width = params[0].shape
        else:
            if params[0] in (0, 2):
                step[0, 0], step[0, 2] = -1, width
            if params[0] in (1, 2):
                step[1, 1], step[1, 2] = -1, height
        matrix = step @ matrix
    return matrix


@TRANSFORMS.register_module()
class TrackGeometry(BaseTransform):
    """Run geometric transforms and record what they did.

    Adds ``geometry`` (tuple of :class:`GeometryStep`) and ``homography`` (3 x 3, tile to sample) to
    the results, so that evidence made once for the stored tile can be replayed into the crop.

    Rotations and padding move label maps and the valid map by the nearest pixel, and fill pixels
    from outside the tile with 255 (mmseg's ``RandomRotFlip`` interpolates ids and fills in class 0;
    mmcv's ``Pad`` ignores the valid map).

    Args:
        transforms: Configs of Resize, RandomResize, RandomChoiceResize, ResizeShortestEdge,
            ResizeToMultiple, RandomCrop, RandomFlip, RandomRotate, RandomRotFlip and Pad
            transforms, in order.

    Raises:
        ValueError: If the geometry of a transform cannot be tracked.
    """

    FOLLOWED = (
        *(Resize, RandomResize, RandomChoiceResize, ResizeShortestEdge, ResizeToMultiple),
        *(RandomCrop, RandomFlip),
    )
    FILLING = (RandomRotate, RandomRotFlip, Pad)

    def __init__(self, transforms: Sequence[dict]) -> None:
        self.transforms = [TRANSFORMS.build(cfg) for cfg in transforms]
        for transform in self.transforms:
            if not isinstance(transform, self.FOLLOWED + self.FILLING):
                names = ', '.join(kind.__name__ for kind in self.FOLLOWED + self.FILLING)
                raise ValueError(
                    f'TrackGeometry cannot follow {type(transform).__name__}: use {names}, or '
                    'put it outside of TrackGeometry if it moves no pixel.'
                )

    def transform(self, results: dict) -> dict:
        """Transform the sample and add ``geometry`` and ``homography``.

        Args:
            results: The sample, with ``img`` (H, W, C) and the maps named in ``seg_fields``.

        Returns:
            The transformed sample.
        """
        tile_size = results['img'].shape[:2]
        steps: list[GeometryStep] = []
        for transform in self.transforms:
            if isinstance(transform, self.FILLING):
                results, step = self._fill(transform, results)
                steps.append(step)
                continue
            before = results['img'].shape[:2]
            with cache_random_params(transform):
                results = transform(results)
                if isinstance(transform, RandomCrop):
                    top, _, left, _ = transform.crop_bbox(results)  # the cached box of this call
                    steps.append(GeometryStep('crop', (top, left, *results['img'].shape[:2])))
            if isinstance(transform, RandomFlip):
                if results.get('flip'):
                    steps.append(GeometryStep('flip', (_FLIPS[results['flip_direction']],)))
            elif not isinstance(transform, RandomCrop) and results['img'].shape[:2] != before:
                steps.append(GeometryStep('resize', tuple(results['img'].shape[:2])))
        results['geometry'] = tuple(steps)
        results['homography'] = homography(steps, tile_size)
        return results

    @staticmethod
    def _fill(transform: BaseTransform, results: dict) -> tuple[dict, GeometryStep]:
        """Transform coordinate maps together with the image, and move the other maps by them."""
        fields, before = results.get('seg_fields', []), results['img'].shape[:2]
        rows, columns = np.indices(before, dtype=np.float32)
        probes = dict(rows=rows, columns=columns, inside=np.ones(before, np.float32))
        moved = transform({'img': results['img'], **probes, 'seg_fields': list(probes)})
        after = moved['img'].shape[:2]
        if isinstance(transform, Pad):  # pads at the bottom and right, but not the probes
            behind = [(0, new - old) for new, old in zip(after, before, strict=True)]
            moved = {**moved, **{name: np.pad(probes[name], behind) for name in probes}}
        outside = moved['inside'] != 1
        rows, columns = (
            np.where(outside, -1, np.rint(moved[name])).astype(np.int32)
            for name in ('rows', 'columns')
        )
        results = {**results, 'img': moved['img'], 'img_shape': after}
        results.update({name: gather(results[name], rows, columns) for name in fields})
        return results, GeometryStep('gather', (rows, columns))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(transforms={self.transforms})'


# Transforms that move pixels, by name, so that mmpretrain and torchvision need not be imported.
_MOVING = frozenset(
    (
        # mmcv and mmseg
        *('BioMedical3DPad', 'BioMedical3DRandomCrop', 'BioMedical3DRandomFlip', 'CenterCrop'),
        *('MultiScaleFlipAug', 'Pad', 'RandomChoiceResize', 'RandomCrop', 'RandomDepthMix'),
        *('RandomFlip', 'RandomMosaic', 'RandomResize', 'RandomRotate', 'RandomRotFlip', 'Resize'),
        *('ResizeShortestEdge', 'ResizeToMultiple', 'SegRescale', 'TestTimeAug'),
        # mmpretrain
        *('EfficientNetCenterCrop', 'RandomResizedCrop', 'RandomTranslatePad', 'ResizeEdge'),
        *('RandomResizedCropAndInterpolationWithTwoPic', 'Rotate', 'Shear', 'Translate'),
        # torchvision, in mmpretrain's wrapper
        *('ElasticTransform', 'FiveCrop', 'RandomAffine', 'RandomHorizontalFlip'),
        *('RandomPerspective', 'RandomRotation', 'RandomVerticalFlip', 'TenCrop'),
    )
)


def _moves(transform: Any) -> bool:
    """Whether a transform, or a class that it extends, moves pixels."""
    names = [kind.__name__ for kind in type(transform).__mro__]
    if 'DualTransform' in names:  # of albumentations: changes images and masks alike
        return not any('Dropout' in name or name in ('NoOp', 'XYMasking') for name in names)
    return not _MOVING.isdisjoint(names)


def moving_parts(transform: Any) -> list[str]:
    """Names of the transforms that move pixels: the given one, or those inside it.

    Args:
        transform (BaseTransform | list): A transform of mmcv, mmseg, mmpretrain, torchvision (in
            mmpretrain's wrapper) or albumentations (in ``Albu``), alone, in a list, or inside a
            wrapper such as ``RandomApply``.

    Returns:
        Class names, without those inside a ``TrackGeometry``.
    """
    if isinstance(transform, TrackGeometry):
        return []
    if isinstance(transform, (list, tuple)):
        return [name for part in transform for name in moving_parts(part)]
    if _moves(transform):
        return [type(transform).__name__]
    holders = ('aug', 't', 'transforms')  # of Albu, of torchvision's wrapper, of all others
    inside = (getattr(transform, name) for name in holders if hasattr(transform, name))
    return moving_parts(next(inside, []))
