# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: DINOv2 (Apache-2.0) in the place of DINOv3.
_base_ = './_base_/potsdam_448.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-4'))
train_cfg = dict(max_iters=73920)
backbone = dict(
    type='DINOv2',
    trainable=('attn.qkv', 'attn.proj'),  # its 'attn' holds the LayerScale too
    checkpoint='checkpoints/dinov2_vitb14_pretrain.pth',
)
model = dict(students=dict(b=dict(backbone=backbone)))
