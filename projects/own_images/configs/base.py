# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What all methods of the comparison share: data, average, schedule.

compare.py fills in the tiles and their size, the lists, the classes, the length and the seed.
"""

_base_ = '../../../configs/_base_/datasets/semi.py'

default_scope = 'mmseg'
custom_imports = dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)

tile_size, crop_size = (128, 128), (64, 64)
per_step = 8  # labelled images, and as many unlabelled ones

geometry = dict(
    type='TrackGeometry',
    transforms=[
        dict(type='RandomResize', scale=tile_size, ratio_range=(0.75, 1.5), keep_ratio=True),
        dict(type='RandomCrop', crop_size=crop_size),
        dict(type='RandomFlip', prob=0.5),
    ],
)
# Tiles are decoded once. Masks of unlabelled ones are only counted against the pseudo labels, by
# PseudoLabelStatsHook.
load = [
    dict(
        type='KeepInMemory',
        transforms=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    ),
    dict(type='AddValidMask'),
]
labelled_pipeline = [*load, geometry, _base_.labelled_views]
unlabelled_pipeline = [*load, geometry, _base_.unlabelled_views]

tiles = dict(type='BaseSegDataset', data_prefix=dict(img_path='images', seg_map_path='labels'))
tiles.update(img_suffix='.png', seg_map_suffix='.png')
train_dataloader = dict(
    batch_size=2 * per_step,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(batch_size=2 * per_step, source_ratio=[1, 1]),
    dataset=dict(
        labelled=dict(tiles, pipeline=labelled_pipeline),
        unlabelled=dict(tiles, pipeline=unlabelled_pipeline),
    ),
)
evaluate = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(tiles, pipeline=_base_.test_pipeline),
)
val_dataloader = evaluate  # held-out training images, by which the checkpoint is chosen
test_dataloader = evaluate  # looked at once, by the chosen checkpoint

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='MergedParamGroupsConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.25)}),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, by_epoch=False)]
train_cfg = dict(type='SemiTrainLoop', max_iters=1200, val_interval=200)
val_cfg = dict(type='TeacherStudentValLoop')
test_cfg = dict(type='TeacherStudentValLoop')

default_hooks = dict(
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook', by_epoch=False, interval=200, max_keep_ckpts=1, save_best='mIoU'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='MeanTeacherHook', half_life=0.05),
    dict(type='PseudoLabelStatsHook', interval=50),
    dict(type='PseudoLabelGuardHook'),
]
log_processor = dict(by_epoch=False)
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'
)
log_level = 'INFO'
load_from = None
resume = True  # an interrupted run goes on
