# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Co2S on the demo's scenes, as published but for the size: a student that starts from CLIP and is
# told the classes by name, and one that starts from DINOv2 and learns a query for each. Both are
# the small stand-ins in tools/demo/configs/teachers, whose patches are 8 px: so that a car is
# longer than one, images have twice their size.
_base_ = './_base_demo.py'

doubled = (256, 256)
geometry = dict(
    type='TrackGeometry',
    transforms=[
        dict(type='RandomResize', scale=doubled, ratio_range=(0.75, 1.5), keep_ratio=True),
        *_base_.geometry.transforms[1:],
    ],
)
train_dataloader = dict(
    batch_size=4,  # 2 labelled + 2 unlabelled
    sampler=dict(batch_size=4),
    dataset=dict(
        labelled=dict(pipeline=[*_base_.load_labelled, geometry, _base_.labelled_two_views]),
        unlabelled=dict(pipeline=[*_base_.load_unlabelled, geometry, _base_.unlabelled_two_views]),
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=doubled, keep_ratio=True),
    *_base_.test_pipeline[1:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

windows = dict(mode='slide', crop_size=_base_.crop_size, stride=(64, 64))
head = dict(
    type='VLGHead',
    in_channels=[64, 64, 64],
    channels=32,
    text_channels=32,
    up_channels=(16, 16),
    skip_channels=(8, 8),
    num_classes=6,
    dilations=(1, 2, 4),  # of 16 x 16 places
    loss_decode=dict(type='ValidCrossEntropyLoss'),
)
clip = dict(
    type='EncoderDecoder',
    # the statistics that CLIP was trained with; the other student takes those of the batch
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[122.771, 116.746, 104.094],
        std=[68.501, 66.632, 70.323],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='CLIPVision',
        arch=dict(width=64, layers=4, heads=2, patch_size=8, image_size=128, embed_dim=64),
        out_indices=(0, 1, 3),
        value_path=True,
        dense=True,
        trainable=('attn',),
        checkpoint='{{fileDirname}}/teachers/clip.pt',
    ),
    decode_head=dict(
        head,
        class_embedding=dict(
            type='TextEmbedding',
            # what the generator has as clutter, by name: nobody could point at 'clutter'
            concepts=[
                ['road', 'street', 'pavement', 'sidewalk', 'parking lot'],
                ['building', 'house', 'roof', 'rooftop'],
                ['low vegetation', 'grass', 'lawn', 'meadow'],
                ['tree', 'trees', 'tree crown', 'bush'],
                ['car', 'vehicle', 'truck', 'van', 'bus'],
                ['sports court', 'construction site', 'pond'],
            ],
            arch=dict(width=14, layers=2, heads=2, embed_dim=64, context_length=40),
            checkpoint='{{fileDirname}}/teachers/clip.pt',
            templates='aerial',
            cache_dir=None,
        ),
    ),
    test_cfg=windows,
)
dinov2 = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='DINOv2',
        arch=dict(embed_dims=64, num_layers=4, num_heads=2, out_indices=(0, 1, 3)),
        img_size=128,
        patch_size=8,
        trainable=('attn',),
        checkpoint='{{fileDirname}}/teachers/dinov2.pth',
    ),
    decode_head=dict(head, class_embedding=dict(type='LearnableQueries', channels=64)),
    test_cfg=windows,
)
model = dict(
    _delete_=True,
    type='DualStudentSegmentor',
    data_preprocessor=_base_.model.data_preprocessor,
    students=dict(a=clip, b=dinov2),
    semi_train_cfg=dict(fp_drop=None),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.05)}),
)
custom_hooks = [dict(type='PseudoLabelStatsHook', interval=50)]
