# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pipelines of stock mmseg configs made into ones of several views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.transforms import Normalize
from mmseg.datasets.transforms import (
    CLAHE,
    AdjustGamma,
    ConcatCDInput,
    GenerateEdge,
    PackSegInputs,
    RandomMosaic,
    Rerange,
    RGB2Gray,
)
from mmseg.registry import TRANSFORMS

from .transforms import LabelWarp, MultiBranch
from .transforms.geometry import moving_parts

BRANCHES = ('sup', 'weak', 'strong')

# What is done alike to every image, also in tests, and hence to every view.
_FIXED = (AdjustGamma, CLAHE, ConcatCDInput, Normalize, Rerange, RGB2Gray)


def branch_pipeline(
    pipeline: Sequence[dict], labelled: bool, has_masks: bool = False
) -> list[dict]:
    """Turn a stock training pipeline into one of a labelled or an unlabelled source.

    What moves pixels is shared by all views and followed by ``TrackGeometry``; what changes
    colours at random makes the strong view (without any, ``Photometry`` does), and is kept for
    labelled images. What is done alike to every image, such as ``CLAHE``, is done to all views.

    Of unlabelled images no annotations are loaded, and what would ask for them (``GenerateEdge``,
    ``cat_max_ratio`` of a crop) is left out.

    Args:
        pipeline: Configs of transforms. One that has ``MultiBranch``, or does not end with
            ``PackSegInputs``, is returned without what asks for annotations that are not there.
        labelled: Whether the source is the labelled one.
        has_masks: Whether an unlabelled source has masks all the same: a pipeline of one's own may
            load them, for ``PseudoLabelStatsHook`` to count what is right.

    Returns:
        Configs of transforms with the branches of :data:`BRANCHES`.

    Raises:
        ValueError: A transform moves pixels in a way that cannot be followed.
    """
    built = [(step, TRANSFORMS.build(step)) for step in pipeline]
    steps = built
    own = any(isinstance(part, MultiBranch) for _, part in built)
    if not labelled and not (own and has_masks):
        steps = [(_without_labels(step), part) for step, part in built if not _is_of_labels(part)]
    parts = [part for _, part in steps]
    if own or not (parts and isinstance(parts[-1], PackSegInputs)):
        return [step for step, _ in steps]
    first: list[dict] = []
    geometry: list[dict] = []
    then: list[dict] = []
    colours: list[dict] = []
    masks: list[dict] = []
    for step, part in steps[:-1]:
        if type(part).__name__.startswith(('Load', 'KeepInMemory')) or isinstance(
            part, RandomMosaic
        ):
            first.append(step)
        elif isinstance(part, LabelWarp):
            masks.append(step)
        elif moving_parts(part):
            geometry.append(step)
        elif isinstance(part, _FIXED):
            (then if geometry else first).append(step)
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
        *then,
        dict(type='MultiBranch', branch_field=list(BRANCHES), **views),
    ]


def _is_of_labels(part: Any) -> bool:
    """Whether a transform loads annotations or makes something of them."""
    return 'Annotation' in type(part).__name__ or isinstance(part, (GenerateEdge, LabelWarp))


def _without_labels(step: dict) -> dict:
    """A transform's config, or a wrapper's, without the share of classes that a crop looks up."""
    kept = {key: value for key, value in step.items() if key != 'cat_max_ratio'}
    if isinstance(kept.get('transforms'), (list, tuple)):
        kept['transforms'] = [
            _without_labels(inside) if isinstance(inside, dict) else inside
            for inside in kept['transforms']
        ]
    return kept


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
        has_masks = 'seg_map_path' in source.get('data_prefix', ('seg_map_path',))
        changed['pipeline'] = branch_pipeline(source['pipeline'], labelled, has_masks)
    return changed
