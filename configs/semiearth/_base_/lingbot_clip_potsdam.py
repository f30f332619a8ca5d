# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# LingBot-Vision ViT-S/16 (built like DINOv3, Apache-2.0) as student, in crops of 512 px, which are
# whole patches of 16 px.
_base_ = ['../../_base_/datasets/potsdam_semiearth.py', './clip_potsdam.py']

crop_size = (512, 512)
geometry = dict(
    type='TrackGeometry',
    transforms=[
        _base_.geometry.transforms[0],
        dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
        _base_.geometry.transforms[2],
    ],
)
labelled_pipeline = [*_base_.load_labelled, geometry, _base_.labelled_views]
unlabelled_pipeline = [*_base_.load_unlabelled, geometry, _base_.unlabelled_views]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    *_base_.test_pipeline[2:],
]
train_dataloader = dict(
    dataset=dict(
        labelled=dict(pipeline=labelled_pipeline), unlabelled=dict(pipeline=unlabelled_pipeline)
    )
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size_divisor=16)),
    student=dict(
        backbone=dict(
            type='DINOv3', checkpoint='checkpoints/vit_small_patch16_lingbot.robbyant.safetensors'
        )
    ),
)
