# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Labelled and unlabelled images of one folder, a MobileNetV2 student, an EMA teacher.

compare.py fills in the data (root, lists, classes), the length and the seed.
"""

default_scope = 'mmseg'
custom_imports = dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)

crop_size = (160, 160)
batch_size = 8  # 4 labelled + 4 unlabelled

geometry = dict(
    type='TrackGeometry',
    transforms=[
        dict(type='RandomResize', scale=(256, 256), ratio_range=(0.75, 1.5), keep_ratio=True),
        dict(type='RandomCrop', crop_size=crop_size),
        dict(type='RandomFlip', prob=0.5),
    ],
)
branches = ['sup', 'weak', 'strong']
photometry = [
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[
            dict(
                type='mmpretrain.ColorJitter',
                brightness=0.5,
                contrast=0.5,
                saturation=0.5,
                hue=0.25,
                backend='cv2',
            )
        ],
    ),
    dict(type='mmpretrain.ColorTransform', magnitude=-1, prob=0.2, random_negative_prob=0.0),
    dict(
        type='mmpretrain.GaussianBlur',
        magnitude_range=(0.1, 2.0),
        magnitude_std='inf',
        prob=0.5,
    ),
]
labelled_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='AddValidMask'),
    geometry,
    dict(type='MultiBranch', branch_field=branches, sup=[dict(type='PackSemiInputs')]),
]
unlabelled_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='AddValidMask'),
    geometry,
    dict(
        type='MultiBranch',
        branch_field=branches,
        weak=[dict(type='PackSemiInputs')],
        strong=[*photometry, dict(type='PackSemiInputs')],
    ),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

labelled = dict(
    type='BaseSegDataset',
    data_prefix=dict(img_path='images', seg_map_path='labels'),
    pipeline=labelled_pipeline,
)
unlabelled = dict(
    type='BaseSegDataset', data_prefix=dict(img_path='images'), pipeline=unlabelled_pipeline
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='SemiSampler', batch_size=batch_size, source_ratio=[1, 1]),
    dataset=dict(type='SemiDataset', labelled=labelled, unlabelled=unlabelled),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='SubsetIoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator

backbone = dict(
    type='MobileNetV2',
    out_indices=(1, 2, 4, 6),
    strides=(1, 2, 2, 2, 1, 1, 1),
    dilations=(1, 1, 1, 1, 1, 2, 2),
    norm_cfg=dict(type='BN'),
)
decode_head = dict(
    type='SegformerHead',
    in_channels=[24, 32, 96, 320],
    in_index=[0, 1, 2, 3],
    channels=64,
    dropout_ratio=0.1,
    num_classes=2,
    norm_cfg=dict(type='BN'),
    align_corners=False,
    loss_decode=dict(type='ValidCrossEntropyLoss'),
)
model = dict(
    type='MeanTeacherSegmentor',
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        mean=[127.5] * 3,
        std=[127.5] * 3,
        bgr_to_rgb=True,
        size=crop_size,
    ),
    student=dict(
        type='EncoderDecoder',
        backbone=backbone,
        decode_head=decode_head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    ),
    semi_train_cfg=dict(conf_thresh=0.95, norm='separate'),  # batch norm remembers clean images
)

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='MergedParamGroupsConstructor',
    optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.4)}),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, by_epoch=False)]
train_cfg = dict(type='SemiTrainLoop', max_iters=300, val_interval=300)
val_cfg = dict(type='TeacherStudentValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=300, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='MeanTeacherHook', momentum=0.99),
    dict(type='PseudoLabelStatsHook', interval=50),
    dict(type='PseudoLabelGuardHook'),
]
log_processor = dict(by_epoch=False)
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_level = 'INFO'
load_from = None
resume = False
