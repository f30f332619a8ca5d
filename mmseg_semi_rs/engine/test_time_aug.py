# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation: averages the probabilities of resized and mirrored copies of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmseg.registry import TRANSFORMS

from ..datasets.transforms.geometry import moving_parts

#: Sizes of the copies relative to that of the test pipeline, as in mmseg's stock configs.
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def augment_tests(cfg: Config) -> None:
    """Change a config to test as ``tools/test.py --tta`` of mmseg does.

    Its ``tta_model`` and ``tta_pipeline`` are used if it has them. Otherwise mmseg's
    ``SegTTAModel`` averages over :data:`RATIOS` and mirrored images of the test pipeline's result.
    Only the network that ``predict_on`` names predicts.

    Args:
        cfg: The config with ``test_dataloader``; changed in place.

    Raises:
        ValueError: If ``tta_pipeline`` has no ``TestTimeAug``, or if there is none and the test
            pipeline changes the geometry by more than a resize.
    """
    given = cfg.get('tta_pipeline')
    if given is not None and not any(_name(step) == 'TestTimeAug' for step in given):
        raise ValueError(
            f'tta_pipeline of {cfg.filename} has no TestTimeAug, without which there is nothing to '
            'average over: add one, or leave tta_pipeline out.'
        )
    for source in _sources(cfg.test_dataloader.dataset):
        source['pipeline'] = given or tta_pipeline(source['pipeline'])
    outer = dict(cfg.get('tta_model') or {'type': 'SegTTAModel'})
    cfg.model = {**outer, 'module': cfg.model}
    cfg.test_cfg = {'type': 'TestLoop'}


def tta_pipeline(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert a plain test pipeline to one of resized and mirrored copies.

    Args:
        pipeline: Configs of transforms: loading, transforms without geometry, optionally
            ``Resize``, and packing.

    Returns:
        The same with ``TestTimeAug``; annotations are loaded after resizing, at their own size.

    Raises:
        ValueError: If anything but one ``Resize`` moves pixels.
    """
    first, resize, labels, pack = [], None, [], dict(type='PackSegInputs')
    for step in plain_steps(pipeline):
        name = _name(step)
        if name == 'Resize' and resize is None:
            resize = dict(step)
        elif moving := moving_parts(TRANSFORMS.build(dict(step))):
            raise ValueError(
                f'The test pipeline has {", ".join(moving)}, of which it is not known how to make '
                'copies of other sizes: give the config a tta_pipeline, as mmseg has it.'
            )
        elif 'Annotation' in name:
            labels.append(dict(step))
        elif name.startswith('Pack'):
            pack = dict(step)
        else:
            first.append(dict(step))
    choices = [
        [_resized(resize, ratio) for ratio in RATIOS],
        [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
        *([step] for step in labels),
        [pack],
    ]
    return [*first, dict(type='TestTimeAug', transforms=choices)]


def plain_steps(pipeline: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the configs of a pipeline's transforms, also from inside ``KeepInMemory``."""
    return [
        part
        for step in pipeline
        for part in (plain_steps(step['transforms']) if _name(step) == 'KeepInMemory' else [step])
    ]


def _resized(resize: Mapping[str, Any] | None, ratio: float) -> dict[str, Any]:
    """Config of a ``Resize`` to a share of a size; None stands for the size of the image."""
    if resize is None:
        return dict(type='Resize', scale_factor=ratio, keep_ratio=True)
    key = 'scale' if resize.get('scale') is not None else 'scale_factor'
    old = resize[key]
    scaled = [part * ratio for part in (old if isinstance(old, (list, tuple)) else (old, old))]
    return {**resize, key: tuple(map(round, scaled)) if key == 'scale' else tuple(scaled)}


def _sources(dataset: Any) -> list[Any]:
    """Configs with a pipeline: that of a data set, or those wrapped in it."""
    if 'pipeline' in dataset:
        return [dataset]
    inside = dataset.get('datasets') or [dataset['dataset']]
    return [source for part in inside for source in _sources(part)]


def _name(step: Mapping[str, Any]) -> str:
    return str(step['type']).rsplit('.', 1)[-1]
