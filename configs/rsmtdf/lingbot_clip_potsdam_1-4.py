# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# LingBot-Vision ViT-B/16 (built like DINOv3, Apache-2.0) in the place of the teacher DINOv2, at
# 512 of the 518 px. 3,312 training patches, 1/4 labelled: 828, unlabelled U = 2,484.
_base_ = './dinov2_clip_potsdam_1-4.py'

lingbot = dict(
    type='DINOv3', checkpoint='checkpoints/vit_base_patch16_lingbot.robbyant.safetensors'
)
model = dict(student=dict(decode_head=dict(teachers=dict(dino=dict(backbone=lingbot)))))
