# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# RS-MTDF inside Co2S: the second student is distilled from frozen DINOv2 and CLIP, while it and the
# first, CLIP with text, teach each other.
_base_ = ['./clip_dinov2_potsdam_1-4.py', '../_base_/models/distill_dinov2_clip.py']

rsmtdf = dict(
    type='DistillEncoderDecoder',
    backbone=dict(
        type='DINOv2',
        arch='small',
        out_indices=(2, 5, 8, 11),
        checkpoint='checkpoints/dinov2_vits14_pretrain.pth',
    ),
    decode_head=dict(
        **_base_.distill,
        decode_head=dict(
            type='SizeMatchedDPTHead',
            arch='small',
            num_classes=6,
            align_corners=True,
            loss_decode=dict(type='ValidCrossEntropyLoss'),
        ),
    ),
    test_cfg=_base_.model.students.b.test_cfg,
)
model = dict(students=dict(b=dict(_delete_=True, **rsmtdf)))
# the learning rates of RS-MTDF for its student: 5e-6 and 2e-4
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '_delete_': True,
            'students.a.backbone': dict(lr_mult=0.01),
            'students.a.decode_head': dict(lr_mult=10.0),
            'students.b.backbone': dict(lr_mult=0.05),
            'students.b.decode_head': dict(lr_mult=2.0),
        }
    )
)
