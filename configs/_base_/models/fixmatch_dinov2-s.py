# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# FixMatch with an EMA teacher: DINOv2 ViT-S/14 encoder, DPT decoder. For another size change
# `backbone.arch`, its `out_indices` ((4, 11, 17, 23) for large, (9, 19, 29, 39) for giant), its
# `checkpoint` and `decode_head.arch`.
model = dict(
    type='MeanTeacherSegmentor',
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(518, 518),
        pad_val=0,
        seg_pad_val=255,
        test_cfg=dict(size_divisor=14),
    ),
    student=dict(
        type='EncoderDecoder',
        backbone=dict(
            type='DINOv2',
            arch='small',
            out_indices=(2, 5, 8, 11),
            checkpoint='checkpoints/dinov2_vits14_pretrain.pth',
        ),
        decode_head=dict(
            type='SizeMatchedDPTHead',
            arch='small',
            num_classes=6,
            align_corners=True,
            loss_decode=dict(type='ValidCrossEntropyLoss'),
        ),
        test_cfg=dict(mode='whole'),
    ),
    ema=True,
    semi_train_cfg=dict(
        conf_thresh=0.95,
        loss_reduce='mean',
        loss_weight=dict(sup=1.0, unsup=1.0, distill=1.0),
        cutmix=dict(prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), partner='roll'),
    ),
    semi_test_cfg=dict(predict_on='teacher'),
)
