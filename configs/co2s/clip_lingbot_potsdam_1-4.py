# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# LingBot-Vision (Apache-2.0), which is built like DINOv3, in its place.
_base_ = './clip_dinov3_potsdam_1-4.py'

lingbot = dict(checkpoint='checkpoints/vit_base_patch16_lingbot.robbyant.safetensors')
model = dict(students=dict(b=dict(backbone=lingbot)))
