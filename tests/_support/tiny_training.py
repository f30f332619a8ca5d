# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A training that takes a second: 64 px images of two kinds of stripes, a network of 4 channels."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from tests._support.processes import ROOT, free_port

CONFIG = """
default_scope = 'mmseg'
custom_imports = dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
branches = ['sup', 'weak', 'strong']
geometry = dict(type='TrackGeometry', transforms=[
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=1.0),
    dict(type='RandomFlip', prob=0.5)])
strong = [dict(type='PhotoMetricDistortion'), dict(type='PackSemiInputs')]
dataset = dict(
    type='BaseSegDataset', serialize_data=False, data_root='ROOT', img_suffix='.png',
    seg_map_suffix='.png',
    metainfo=dict(
        classes=('grass', 'road', 'roof'), palette=[[0, 255, 0], [90, 90, 90], [200, 0, 0]]))
images = dict(img_path='img')
both = dict(img_path='img', seg_map_path='ann')
train_dataloader = dict(
    batch_size=4, num_workers=0,
    sampler=dict(type='SemiSampler', batch_size=4, source_ratio=[1, 1]),
    dataset=dict(
        type='SemiDataset',
        labelled=dict(dataset, ann_file='labelled.txt', data_prefix=both, pipeline=[
            dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='AddValidMask'),
            geometry, dict(type='MultiBranch', branch_field=branches,
                           sup=[dict(type='PackSemiInputs')])]),
        unlabelled=dict(dataset, ann_file='unlabelled.txt', data_prefix=images, pipeline=[
            dict(type='LoadImageFromFile'), dict(type='AddValidMask'), geometry,
            dict(type='MultiBranch', branch_field=branches,
                 weak=[dict(type='PackSemiInputs')], strong=strong)])))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, ann_file='val.txt', data_prefix=both, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
test_dataloader = val_dataloader
val_evaluator = dict(type='SubsetIoUMetric')
test_evaluator = val_evaluator
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='MeanTeacherSegmentor',
    data_preprocessor=dict(
        type='SemiDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, size=(64, 64), pad_val=0, seg_pad_val=255, test_cfg=dict(size_divisor=8)),
    student=dict(
        type='EncoderDecoder',
        backbone=dict(type='ResNet', depth=18, base_channels=4, stem_channels=4, norm_cfg=norm_cfg),
        decode_head=dict(
            type='FCNHead', in_channels=32, in_index=3, channels=8, num_convs=1,
            concat_input=False, num_classes=3, norm_cfg=norm_cfg),
        test_cfg=dict(mode='whole')),
    semi_train_cfg=dict(conf_thresh=0.4))
optim_wrapper = dict(
    type='OptimWrapper', constructor='MergedParamGroupsConstructor',
    optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False)
train_cfg = dict(type='SemiTrainLoop', max_iters=4, val_interval=4)
val_cfg = dict(type='TeacherStudentValLoop')
test_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', interval=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    finite_guard=dict(type='FiniteGuardHook'))
custom_hooks = [dict(type='MeanTeacherHook', momentum=0.004)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
"""


def striped(rng: np.random.Generator, index: int, side: int = 64) -> tuple[Image.Image, ...]:
    """An image of three classes in stripes, with noise, and its mask."""
    labels = (np.indices((side, side))[index % 2] // (side // 4) + index) % 3
    image = np.array([[40, 160, 40], [90, 90, 90], [170, 60, 50]])[labels]
    image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255)
    return tuple(Image.fromarray(pixels.astype(np.uint8)) for pixels in (image, labels))


def write_training(folder: Path, images: int = 7) -> Path:
    """Write images, masks, lists and a config.

    Returns:
        The config.
    """
    rng = np.random.default_rng(0)
    for name in ('img', 'ann'):
        (folder / name).mkdir(parents=True)
    names = [f'tile_{index}' for index in range(images)]
    for index, name in enumerate(names):
        for kind, picture in zip(('img', 'ann'), striped(rng, index), strict=True):
            picture.save(folder / kind / f'{name}.png')
    lists = {'labelled': names[:2], 'unlabelled': names[2:4], 'val': names[4:]}
    for name, listed in lists.items():
        (folder / f'{name}.txt').write_text(''.join(f'{line}\n' for line in listed))
    config = folder / 'tiny.py'
    config.write_text(CONFIG.replace('ROOT', str(folder)))
    return config


TWO_VIEWS = """
_base_ = './tiny.py'
branches = ['sup', 'weak', 'strong_1', 'strong_2']
geometry = {{_base_.geometry}}
strong = {{_base_.strong}}
labelled = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='AddValidMask'),
    geometry, dict(type='MultiBranch', branch_field=branches, sup=[dict(type='PackSemiInputs')])]
unlabelled = [
    dict(type='LoadImageFromFile'), dict(type='AddValidMask'), geometry,
    dict(type='MultiBranch', branch_field=branches, weak=[dict(type='PackSemiInputs')],
         strong_1=strong, strong_2=strong)]
train_dataloader = dict(
    dataset=dict(labelled=dict(pipeline=labelled), unlabelled=dict(pipeline=unlabelled)))
"""
DUAL = (
    TWO_VIEWS
    + """
student = {{_base_.model.student}}
model = dict(
    _delete_=True, type='DualStudentSegmentor',
    data_preprocessor={{_base_.model.data_preprocessor}},
    students=dict(a=student, b=student),
    semi_train_cfg=dict(conf_thresh=0.4))
"""
)
UNIMATCH = (
    TWO_VIEWS
    + """
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.0)))
"""
)


def write_dual(tiny: Path) -> Path:
    """Write, beside a config of :func:`write_training`, one of two students on the same data."""
    config = tiny.with_name('dual.py')
    config.write_text(DUAL)
    return config


def write_unimatch(tiny: Path) -> Path:
    """Write, beside a config of :func:`write_training`, one of UniMatch V2 on the same data."""
    config = tiny.with_name('unimatch.py')
    config.write_text(UNIMATCH)
    return config


def config(path: Path, work_dir: Path, iters: int = 6, **options: Any) -> Config:
    """Read a config for so many steps, with dropout and a checkpoint every third step."""
    cfg = Config.fromfile(path)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{Path(work_dir).name}_{time.time_ns()}'
    cfg.train_cfg.update(max_iters=iters, val_interval=1000)
    cfg.model.semi_train_cfg.conf_thresh = 0.0  # so untrained networks keep labels at all
    cfg.param_scheduler.update(end=100)
    if 'students' in cfg.model:  # else a shorter training would have another ramp
        cfg.model.semi_train_cfg.stability = dict(ramp=0.0)
    cfg.default_hooks.checkpoint.interval = 3
    for student in [cfg.model.student] if 'student' in cfg.model else cfg.model.students.values():
        student.decode_head.dropout_ratio = 0.3
    cfg.merge_from_dict(options)
    return cfg


def train(cfg: Config) -> tuple[Runner, list[float]]:
    """Train; the runner, and the loss of each step."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, list(runner.message_hub.get_scalar('train/loss').data[0])


def assert_alive(runner: Any, begin: int = 0) -> None:
    """Make sure that no loss of a training was zero in most steps, which would show little.

    Args:
        runner: After the training; a resumed one has the losses before, too.
        begin: Step, from 0, from which on all losses act.
    """
    hub = runner.message_hub
    losses = {
        name: hub.get_scalar(name).data[0]
        for name in hub.log_scalars
        if name.startswith('train/') and 'loss' in name
    }
    assert len(losses) > 2
    steps = max(map(len, losses.values())) - begin
    for name, values in losses.items():  # some are not there before
        assert (values[-steps:] != 0).mean() >= 0.5, f'{name}: {values}'


def load_tool(name: str) -> ModuleType:
    """Import ``tools/<name>.py``; its ``main(argv)`` is what the command line runs."""
    path = ROOT / 'tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'tool_{path.stem}', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its worker processes look for its functions
    spec.loader.exec_module(module)
    return module


def forget_runs() -> None:
    """Forget loggers, message hubs and visualizers, which mmengine keeps for the whole process.

    A new run must not write into those of the one before.
    """
    for kept in (MMLogger, MessageHub, Visualizer, SegLocalVisualizer):
        kept._instance_dict.clear()


def run_here(name: str, *arguments: object) -> None:
    """Run a tool in this process, which saves the seconds of the imports."""
    forget_runs()
    load_tool(name).main([str(argument) for argument in arguments])


def run_shell(tool: str, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one of ``tools/*.sh`` in a folder, with one thread."""
    env = {
        **os.environ,
        'PORT': str(free_port()),
        'OMP_NUM_THREADS': '1',
        'PYTHON': os.environ.get('PYTHON', sys.executable),
        'PYTHONPATH': str(ROOT),
        'CUDA_VISIBLE_DEVICES': '',
    }
    start = ['bash', str(ROOT / 'tools' / f'{tool}.sh')]
    return subprocess.run(
        [*start, *map(str, words)], cwd=folder, env=env, capture_output=True, text=True
    )
