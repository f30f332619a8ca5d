# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Co2S for a small machine: the DINOv3 student is a ViT-S/16.
_base_ = './co2s_clip_dinov3-b.py'

model = dict(
    students=dict(
        b=dict(
            backbone=dict(
                arch='small', checkpoint='checkpoints/dinov3_vits16_pretrain_lvd1689m-08c60483.pth'
            ),
            decode_head=dict(in_channels=[384, 384, 384], class_embedding=dict(channels=384)),
        )
    )
)
