# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# What the demo's runs share: fabricated scenes (tools/make_demo_data.py), 3 of 32 labelled, a
# student of 0.9 million parameters, and a schedule of minutes on a CPU.
_base_ = [
    '../../../configs/_base_/datasets/semi.py',
    '../../../configs/_base_/schedules/semi_adamw_poly.py',
    '../../../configs/_base_/default_runtime.py',
]

crop_size = (128, 128)
geometry = dict(
    type='TrackGeometry',
    transforms=[
        dict(type='RandomResize', scale=crop_size, ratio_range=(0.75, 1.5), keep_ratio=True),
        dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
        dict(type='RandomFlip', prob=0.5),
    ],
)
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
                hue=0.1,
                backend='cv2',
            )
        ],
    ),
    dict(
        type='mmpretrain.GaussianBlur',
        magnitude_range=(0.1, 1.0),  # cars are 5 px wide
        magnitude_std='inf',
        prob=0.5,
    ),
]
strong_view = [*photometry, _base_.pack]
unlabelled_views = dict(_base_.unlabelled_views, strong=strong_view)
unlabelled_two_views = dict(_base_.unlabelled_two_views, strong_1=strong_view, strong_2=strong_view)
# two strong views: `train_dataloader = dict(dataset=_base_.two_strong)`
two_strong = dict(
    labelled=dict(pipeline=[*_base_.load_labelled, geometry, _base_.labelled_two_views]),
    unlabelled=dict(pipeline=[*_base_.load_unlabelled, geometry, unlabelled_two_views]),
)

images = dict(
    type='PotsdamDataset', data_root='data/demo_potsdam', data_prefix=dict(img_path='img_dir')
)
images_and_labels = dict(images, data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'))
train_dataloader = dict(
    batch_size=8,  # 4 labelled + 4 unlabelled
    num_workers=1,
    sampler=dict(batch_size=8, source_ratio=[1, 1]),
    dataset=dict(
        split='splits/scene/3-32',
        labelled=dict(
            images_and_labels, pipeline=[*_base_.load_labelled, geometry, _base_.labelled_views]
        ),
        unlabelled=dict(images, pipeline=[*_base_.load_unlabelled, geometry, unlabelled_views]),
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(images_and_labels, ann_file='splits/scene/val.txt', pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='MeanTeacherSegmentor',
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=crop_size,
        pad_val=0,
        seg_pad_val=255,
    ),
    student=dict(
        type='EncoderDecoder',
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            stem_channels=16,
            base_channels=16,
            num_stages=3,
            strides=(1, 2, 1),
            dilations=(1, 1, 2),
            out_indices=(0, 1, 2),
            norm_cfg=norm_cfg,
            norm_eval=False,
        ),
        decode_head=dict(
            type='SegformerHead',
            in_channels=[16, 32, 64],
            in_index=[0, 1, 2],
            channels=48,
            dropout_ratio=0.0,
            num_classes=6,
            norm_cfg=norm_cfg,
            align_corners=False,
            loss_decode=dict(type='ValidCrossEntropyLoss'),
        ),
        test_cfg=dict(mode='whole'),
    ),
    semi_train_cfg=dict(
        conf_thresh=0.95,
        loss_reduce='mean',
        norm='separate',
        cutmix=dict(prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), partner='roll'),
    ),
    semi_test_cfg=dict(predict_on='teacher'),
)

optim_wrapper = dict(
    optimizer=dict(lr=4e-3),
    paramwise_cfg=dict(_delete_=True),  # nothing is pretrained: one learning rate
)
train_cfg = dict(max_iters=600, val_interval=600)
test_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=300, save_best=None, max_keep_ckpts=1),
    visualization=dict(draw=False),
)
custom_hooks = [
    dict(type='MeanTeacherHook', momentum=0.02),
    dict(type='PseudoLabelStatsHook', interval=50),
]
