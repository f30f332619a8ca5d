# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,312 training patches, 1/32 labelled: 103, unlabelled U = 3,209.
_base_ = [
    '../_base_/datasets/potsdam_scene.py',
    '../_base_/models/rsmtdf_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split='splits/scene/1-32'))
# 60 epochs over U, 8 per GPU, 4 GPUs: floor(ceil(3209 / 4) / 8) * 60
train_cfg = dict(max_iters=6000)
