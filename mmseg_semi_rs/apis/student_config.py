# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The student of a semi-supervised training as a plain supervised config of mmseg."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import DATASETS, METRICS, MODELS, TRANSFORMS

from ..engine.hooks.mean_teacher_hook import half_life_keep
from .stock_parts import nodes

_OURS = __name__.split('.')[0]


def plain_config(
    cfg: Config,
    data: dict[str, Any],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    student: Config | None = None,
    iters: int | None = None,
    labelled_by: Sequence[str] = (),
) -> Config:
    """Build a config that trains one network on masks with the loops, hooks and losses of mmseg.

    Args:
        cfg: Config of a semi-supervised training, which gives transforms, optimiser, schedule and
            validation.
        data: Config of the dataset of images and masks without a pipeline, or a ``ConcatDataset``.
        classes: Names of the classes.
        palette: RGB colour of each class.
        student: Config whose network is trained. Defaults to ``cfg``.
        iters: Number of iterations. Defaults to that of ``cfg``.
        labelled_by: Checkpoints that made the automatic masks, recorded in the config.

    Returns:
        The config, which imports this package only if it uses parts of it. For the
        ``MeanTeacherHook`` of ``cfg`` it has an ``EMAHook``, whose average is validated and saved.
    """
    steps = iters or int(cfg.train_cfg.max_iters)
    pipeline = _pipeline(cfg.train_dataloader.dataset.labelled)
    for source in data.get('datasets', [data]):
        source.update(pipeline=pipeline, metainfo=dict(classes=list(classes), palette=palette))
    loaders: dict[str, Any] = {
        'train_dataloader': dict(
            batch_size=cfg.train_dataloader.batch_size,
            num_workers=cfg.train_dataloader.get('num_workers', 0),
            persistent_workers=bool(cfg.train_dataloader.get('persistent_workers', False)),
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=data,
        )
    }
    for role in ('val', 'test'):
        loaders[f'{role}_dataloader'] = cfg[f'{role}_dataloader'].to_dict()
        loaders[f'{role}_evaluator'] = _evaluator(cfg[f'{role}_evaluator'])
    optim = cfg.optim_wrapper.to_dict()
    if optim.get('constructor') == 'MergedParamGroupsConstructor':  # only merges groups
        del optim['constructor']
    interval = min(int(cfg.train_cfg.get('val_interval', steps)), steps)
    written = dict(
        default_scope='mmseg',
        model=_model(cfg, student or cfg, len(classes)),
        **loaders,
        optim_wrapper=optim,
        param_scheduler=_schedulers(cfg, steps),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=steps, val_interval=interval),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        default_hooks=_hooks(cfg, interval),
        custom_hooks=_average(cfg, steps),
        env_cfg=copy.deepcopy(cfg.get('env_cfg') or {}),
        visualizer=dict(
            type='SegLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
            name='visualizer',
        ),
        log_processor=dict(by_epoch=False),
        log_level='INFO',
        load_from=None,
        resume=False,
        randomness=dict(seed=(cfg.get('randomness') or {}).get('seed')),
    )
    if labelled_by:
        written['labelled_by'] = list(labelled_by)
    for key in ('crop_size', 'window_size', 'raster', 'image_dir'):
        if key in cfg:
            written[key] = copy.deepcopy(cfg[key])
    if _parts_of_ours(written):
        written['custom_imports'] = dict(imports=[_OURS], allow_failed_imports=False)
    return Config(written)


def _schedulers(cfg: Config, steps: int) -> list[dict[str, Any]]:
    """The schedulers of the training; those that last to its end last to that of the student."""
    given = cfg.param_scheduler
    found = [dict(one) for one in ([given] if isinstance(given, dict) else given)]
    for scheduler in found:
        end = scheduler.get('end')
        if end is None or end >= int(cfg.train_cfg.max_iters):
            end = steps
        scheduler['end'] = min(end, steps)
    return found


def _hooks(cfg: Config, interval: int) -> dict[str, Any]:
    """The default hooks of mmseg, with a checkpoint and a validation at the same steps."""
    kept = dict(type='CheckpointHook', by_epoch=False, interval=interval, max_keep_ckpts=1)
    before = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if before.get('save_best'):  # otherwise there are too few images to select by
        kept['save_best'] = 'mIoU'
    return dict(
        timer=dict(type='IterTimerHook'),
        logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
        param_scheduler=dict(type='ParamSchedulerHook'),
        checkpoint=kept,
        sampler_seed=dict(type='DistSamplerSeedHook'),
        visualization=dict(type='SegVisualizationHook'),
    )


def _evaluator(evaluator: Any) -> dict[str, Any]:
    """Return mmseg's own metric, unless the given one leaves out classes, which mmseg's cannot."""
    found = dict(evaluator) if isinstance(evaluator, dict) else {}
    subset = any(found.get(key) for key in ('mean_over', 'ignore_gt'))
    return found if subset else dict(type='IoUMetric', iou_metrics=['mIoU'])


def _average(cfg: Config, steps: int) -> list[dict[str, Any]]:
    """Return an ``EMAHook`` that averages as the training's ``MeanTeacherHook``, if it had one."""
    hooks = [hook for hook in cfg.get('custom_hooks') or () if hook['type'] == 'MeanTeacherHook']
    if not hooks:
        return []
    given = hooks[0]
    interval = given.get('interval', 1)
    momentum = given.get('momentum', 0.004)
    if 'keep' in given:
        momentum = 1 - given['keep']
    if 'half_life' in given:
        momentum = 1 - half_life_keep(given['half_life'], steps, interval)
    return [
        dict(
            type='EMAHook',
            momentum=round(min(momentum, 0.999), 6),
            interval=interval,
            update_buffers=True,
            begin_iter=steps // 10,  # skip the first weights: mmengine has no EMA warm-up
        )
    ]


def _model(cfg: Config, owner: Config, classes: int) -> dict[str, Any]:
    """Return the network with mmseg's own preprocessor, losses and segmentor."""
    model = owner.model.to_dict()
    network = model.get('student') or next(iter(model.get('students', {}).values()), model)
    front = network.get('data_preprocessor') or model.get('data_preprocessor') or {}
    front = {**cfg.model.to_dict().get('data_preprocessor', {}), **front}
    front['type'] = 'SegDataPreProcessor'
    front.pop('rgb', None)  # only for pictures and for networks that know three bands
    head = network['decode_head']
    if head['type'] == 'MultiTeacherDistillHead':
        network['decode_head'] = head = head['decode_head']
    if network['type'] == 'DistillEncoderDecoder':
        network['type'] = 'EncoderDecoder'
        network.pop('view_resize', None)
    for given in (head, network.get('auxiliary_head') or []):
        for each in given if isinstance(given, list) else [given]:
            each['num_classes'] = classes
    for node in nodes(network):
        if node.get('type') == 'ValidCrossEntropyLoss':
            node.update(type='CrossEntropyLoss', avg_non_ignore=True)
    network['data_preprocessor'] = front
    return network


def _pipeline(labelled: Any) -> list[dict[str, Any]]:
    """Return the steps of a labelled source's pipeline as a flat pipeline of mmseg."""
    source = labelled
    while 'pipeline' not in source:
        source = source['dataset'] if 'dataset' in source else source['datasets'][0]
    found: list[dict[str, Any]] = []
    for step in source['pipeline']:
        kind = step['type']
        if kind in ('KeepInMemory', 'TrackGeometry'):
            found += [part.to_dict() for part in step['transforms']]
        elif kind == 'MultiBranch':
            found += [part.to_dict() for part in step['sup'] if part['type'] != 'PackSemiInputs']
        elif kind not in ('AddValidMask', 'PackSegInputs'):
            found.append(step.to_dict())
    for step in found:
        step.pop('reduce_zero_label', None)  # the masks hold class ids
    off = [step for step in found if step['type'] == 'LabelWarp' and not step.get('prob', 1)]
    return [*(step for step in found if step not in off), dict(type='PackSegInputs')]


def _parts_of_ours(written: dict[str, Any]) -> list[str]:
    """Return the names of the parts in a config that this package registers."""
    registries = (MODELS, DATASETS, TRANSFORMS, METRICS)
    names = {str(node['type']) for node in nodes(written) if 'type' in node}
    kinds = [registry.get(name) for registry in registries for name in names]
    return sorted({kind.__name__ for kind in kinds if kind and kind.__module__.startswith(_OURS)})


def mask_datasets(suffixes: Sequence[str], root: Path, out: Path) -> dict[str, Any]:
    """Return the config of the images and masks of :mod:`.autolabel` as datasets of mmseg."""
    sources = [
        dict(
            type='BaseSegDataset',
            ann_file=str((out / f'train{suffix}.txt').resolve()),
            data_prefix=dict(img_path=str(root), seg_map_path=str((out / 'masks').resolve())),
            img_suffix=suffix,
            seg_map_suffix='.png',
        )
        for suffix in suffixes
    ]
    return sources[0] if len(sources) == 1 else dict(type='ConcatDataset', datasets=sources)
