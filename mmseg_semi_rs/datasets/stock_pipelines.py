# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pipelines of stock mmseg configs made into ones of several views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.transforms import LoadAnnotations
from mmseg.datasets.transforms import PackSegInputs, RandomMosaic
from mmseg.registry import TRANSFORMS

from .transforms import LabelWarp, MultiBranch
from .transforms.geometry import moving_parts

BRANCHES = ('sup', 'weak', 'strong')


def branch_pipeline(pipeline: Sequence[dict], labelled: bool) -> list[dict]:
    """Turn a stock training pipeline into one of a labelled or an unlabelled source.

    What moves pixels is shared by all views and followed by ``TrackGeometry``; what changes
    colours makes the strong view (without any, ``Photometry`` does), and is kept for labelled
    images. Of unlabelled images no annotations are loaded, and ``cat_max_ratio`` of a crop, which
    would ask for them, is left out.

    Args:
        pipeline: Configs of transforms. One that has ``MultiBranch``, or does not end with
            ``PackSegInputs``, is returned as it is.
        labelled: Whether the source has masks.

    Returns:
        Configs of transforms with the branches of :data:`BRANCHES`.

    Raises:
        ValueError: A transform moves pixels in a way that cannot be followed.
    """
    steps = [(dict(step), TRANSFORMS.build(step)) for step in pipeline]
    parts = [part for _, part in steps]
    if any(isinstance(part, MultiBranch) for part in parts) or not (
        parts and isinstance(parts[-1], PackSegInputs)
    ):
        return list(pipeline)
    first: list[dict] = []
    geometry: list[dict] = []
    colours: list[dict] = []
    masks: list[dict] = []
    for step, part in steps[:-1]:
        if type(part).__name__.startswith(('Load', 'KeepInMemory')) or isinstance(
            part, RandomMosaic
        ):
            if labelled or not isinstance(part, LoadAnnotations):
                first.append(step)
        elif isinstance(part, LabelWarp):
            masks.append(step)
        elif moving_parts(part):
            if not labelled:
                step.pop('cat_max_ratio', None)
            geometry.append(step)
        else:
            colours.append(step)
    pack = dict(type='PackSemiInputs')
    views: dict[str, list[dict]] = (
        dict(sup=[*colours, *masks, pack])
        if labelled
        else dict(weak=[pack], strong=[*(colours or [dict(type='Photometry')]), pack])
    )
    return [
        *first,
        dict(type='AddValidMask'),
        dict(type='TrackGeometry', transforms=geometry),
        dict(type='MultiBranch', branch_field=list(BRANCHES), **views),
    ]


def branch_source(source: Any, labelled: bool) -> Any:
    """Apply :func:`branch_pipeline` to the config of a source and to those wrapped in it.

    Args:
        source: Config of a dataset or of a wrapper (``ConcatDataset``, ``RepeatDataset``,
            ``MultiImageMixDataset``), a list of them, or a dataset, which stays as it is.
        labelled: Whether it has masks.

    Returns:
        The same with pipelines of several views.
    """
    if isinstance(source, (list, tuple)):
        return [branch_source(part, labelled) for part in source]
    if not isinstance(source, dict):
        return source
    changed = dict(source)
    for key in ('dataset', 'datasets'):
        if key in source:
            changed[key] = branch_source(source[key], labelled)
    if source.get('pipeline'):
        changed['pipeline'] = branch_pipeline(source['pipeline'], labelled)
    return changed
