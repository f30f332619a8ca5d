# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 12,050 training patches, 1/16 labelled: 753, unlabelled U = 11,297.
_base_ = [
    '../_base_/datasets/deepglobe_scene.py',
    '../_base_/models/rsmtdf_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split='splits/scene/1-16'))
# 60 epochs over U, 8 per GPU, 4 GPUs: floor(ceil(11297 / 4) / 8) * 60
train_cfg = dict(max_iters=21180)
