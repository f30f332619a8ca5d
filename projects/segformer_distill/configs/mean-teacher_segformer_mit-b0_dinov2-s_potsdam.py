# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The same SegFormer as student of an EMA teacher: labelled and unlabelled images together.
_base_ = './segformer_mit-b0_dinov2-s_potsdam.py'

model = dict(
    _delete_=True,
    type='MeanTeacherSegmentor',
    student={{_base_.segformer}},
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        mean={{_base_.imagenet.mean}},
        std={{_base_.imagenet.std}},
        bgr_to_rgb=True,
        size={{_base_.crop_size}},
        pad_val=0,
        seg_pad_val=255,
    ),
    # The decode head has BatchNorm: labelled and strong images each get their own statistics.
    semi_train_cfg=dict(conf_thresh=0.95, norm='separate'),
)

branches = ['sup', 'weak', 'strong']
geometry = dict(
    type='TrackGeometry',
    transforms=[
        dict(type='RandomResize', scale=(256, 256), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size={{_base_.crop_size}}),
        dict(type='RandomFlip', prob=0.5),
    ],
)
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
        strong=[
            dict(type='PhotoMetricDistortion'),
            dict(
                type='mmpretrain.GaussianBlur',
                magnitude_range=(0.1, 2.0),
                magnitude_std='inf',  # uniform in the range
                prob=0.5,
            ),
            dict(type='PackSemiInputs'),
        ],
    ),
]
train_dataloader = dict(
    _delete_=True,
    batch_size=8,  # 4 labelled + 4 unlabelled
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='SemiSampler', batch_size=8, source_ratio=[1, 1]),
    dataset=dict(
        type='SemiDataset',
        labelled=dict(
            type='PotsdamDataset',
            data_root={{_base_.data_root}},
            data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'),
            ann_file='splits/scene/1-4/labeled.txt',
            pipeline=labelled_pipeline,
        ),
        unlabelled=dict(
            type='PotsdamDataset',
            data_root={{_base_.data_root}},
            data_prefix=dict(img_path='img_dir'),
            ann_file='splits/scene/1-4/unlabeled.txt',
            pipeline=unlabelled_pipeline,
        ),
    ),
)

train_cfg = dict(_delete_=True, type='SemiTrainLoop', max_iters=400, val_interval=200)
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    pseudo_label_guard=dict(type='PseudoLabelGuardHook'),
)
custom_hooks = [
    dict(type='MeanTeacherHook', momentum=0.004),
    dict(type='PseudoLabelStatsHook', interval=20),
]
