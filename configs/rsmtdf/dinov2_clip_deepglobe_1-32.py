# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 12,050 training patches, 1/32 labelled: 376, unlabelled U = 11,674.
_base_ = [
    '../_base_/datasets/deepglobe_scene.py',
    '../_base_/models/rsmtdf_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split='splits/scene/1-32'))
# 60 epochs over U, 8 per GPU, 4 GPUs: floor(ceil(11674 / 4) / 8) * 60
train_cfg = dict(max_iters=21840)
