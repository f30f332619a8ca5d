# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Co2S: a CLIP student that is told the classes by text, and a DINOv3 student that learns a query
# for each. Without weight files:
#   --cfg-options model.students.a.backbone.checkpoint=None
#     model.students.a.decode_head.class_embedding.checkpoint=None
#     model.students.b.backbone.checkpoint=None
# windows overlap by a sixth: stride int(512 * 5 / 6)
windows = dict(mode='slide', crop_size=(512, 512), stride=(426, 426))
preprocessing = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
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
        arch='ViT-B-16-quickgelu',
        out_indices=(0, 4, 11),
        value_path=True,
        dense=True,
        trainable=('attn',),
        checkpoint='checkpoints/ViT-B-16.pt',
    ),
    decode_head=dict(
        type='VLGHead',
        in_channels=[768, 768, 512],
        num_classes=6,
        class_embedding=dict(
            type='TextEmbedding',
            concepts='potsdam',
            arch='ViT-B-16-quickgelu',
            checkpoint='checkpoints/ViT-B-16.pt',
        ),
        loss_decode=dict(type='ValidCrossEntropyLoss'),
    ),
    test_cfg=windows,
)
dinov3 = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='DINOv3',
        arch='base',
        out_indices=(2, 7, 11),
        trainable=('attn',),
        checkpoint='checkpoints/dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth',
    ),
    decode_head=dict(
        type='VLGHead',
        in_channels=[768, 768, 768],
        num_classes=6,
        class_embedding=dict(type='LearnableQueries', channels=768),
        loss_decode=dict(type='ValidCrossEntropyLoss'),
    ),
    test_cfg=windows,
)
model = dict(
    type='DualStudentSegmentor',
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        **preprocessing,
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
        test_cfg=dict(size_divisor=16),
    ),
    students=dict(a=clip, b=dinov3),
    semi_train_cfg=dict(
        conf_thresh=0.95,
        # (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2 + L_sta; `strong` weighs the mean of s1, s2
        loss_weight=dict(sup=0.5, strong=0.25, fp=0.25),
        cutmix=dict(prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3)),
        donors=1,
        fp_drop=0.5,
        stability=dict(weight=0.5, ramp=0.2),
    ),
    semi_test_cfg=dict(predict_on='fused', fusion='mean_prob'),
)
