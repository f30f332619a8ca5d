# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,312 training patches, 1/4 labelled: 828.
_base_ = [
    '../_base_/datasets/potsdam_scene.py',
    '../_base_/models/supervised_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(
    sampler=dict(source_ratio=[1, 0]), dataset=dict(split='splits/scene/1-4', unlabelled=None)
)
# 60 epochs of 3,000 patches, 16 per GPU, 4 GPUs: floor(ceil(3000 / 4) / 16) * 60
train_cfg = dict(max_iters=2760)
