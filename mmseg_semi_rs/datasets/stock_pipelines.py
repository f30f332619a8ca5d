# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Conversion of stock mmseg pipelines to pipelines of several views."""

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

# Deterministic changes of colours, also used in tests, which all views need.
_FIXED = (AdjustGamma, CLAHE, ConcatCDInput, Normalize, Rerange, RGB2Gray)


def branch_pipeline(
    pipeline: Sequence[dict], labelled: bool, has_masks: bool = False
) -> list[dict]:
    """Convert a stock training pipeline to that of a labelled or an unlabelled source.

    Transforms that move pixels are shared by all views and tracked by ``TrackGeometry``. Random
    colour changes create the strong view (``Photometry`` does if there are none) and are kept for
    labelled images. Deterministic changes such as ``CLAHE`` apply to all views. For unlabelled
    images annotations are not loaded, and transforms or options that need them (``GenerateEdge``,
    ``cat_max_ratio`` of a crop) are left out.

    Args:
        pipeline: Configs of transforms. A pipeline that already has ``MultiBranch``, or does not
            end with ``PackSegInputs``, only loses the parts that need missing annotations.
        labelled: Whether the source is the labelled one.
        has_masks: Whether an unlabelled source has masks nevertheless. A pipeline with
            ``MultiBranch`` may then load them, for ``PseudoLabelStatsHook`` to measure accuracy.

    Returns:
        Configs of transforms with the branches of :data:`BRANCHES`.

    Raises:
        ValueError: If a transform moves pixels in a way that cannot be tracked.
    """
    own = any(isinstance(TRANSFORMS.build(step), MultiBranch) for step in pipeline)
    if not labelled and not (own and has_masks):
        pipeline = _without_labels(pipeline)
    steps = [(step, TRANSFORMS.build(step)) for step in pipeline]
    if own or not (steps and isinstance(steps[-1][1], PackSegInputs)):
        return list(pipeline)
    first: list[dict] = []
    geometry: list[dict] = []
    then: list[dict] = []
    colours: list[dict] = []
    for step, part in steps[:-1]:
        if type(part).__name__.startswith(('Load', 'KeepInMemory')) or isinstance(
            part, RandomMosaic
        ):
            first.append(step)
        elif moving_parts(part):
            geometry.append(step)
        elif isinstance(part, _FIXED):
            (then if geometry else first).append(step)
        else:
            colours.append(step)
    pack = dict(type='PackSemiInputs')
    views: dict[str, list[dict]] = (
        dict(sup=[*colours, pack])
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


def _is_of_labels(step: Any) -> bool:
    """Whether the transform of a config loads annotations or derives something from them."""
    kind = step.get('type') if isinstance(step, dict) else None
    kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and (
        'Annotation' in kind.__name__ or issubclass(kind, (GenerateEdge, LabelWarp))
    )


def _without_labels(step: Any) -> Any:
    """Remove what needs labels from a config of a transform, or of a list of them."""
    if isinstance(step, (list, tuple)):
        return [_without_labels(inside) for inside in step if not _is_of_labels(inside)]
    if not isinstance(step, dict):
        return step
    # cat_max_ratio of a crop counts labels
    kept = {key: value for key, value in step.items() if key != 'cat_max_ratio'}
    if 'transforms' in kept:  # of a wrapper, such as KeepInMemory
        kept['transforms'] = _without_labels(kept['transforms'])
    return kept


def branch_source(source: Any, labelled: bool) -> Any:
    """Apply :func:`branch_pipeline` to the config of a source and to those wrapped in it.

    Args:
        source: Config of a dataset or of a wrapper (``ConcatDataset``, ``RepeatDataset``,
            ``MultiImageMixDataset``), a list of them, or a dataset, which is not changed.
        labelled: Whether the source is the labelled one.

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
