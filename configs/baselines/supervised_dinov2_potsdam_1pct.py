# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,283 training patches, 1 % labelled: 32.
_base_ = [
    '../_base_/datasets/potsdam_dwl.py',
    '../_base_/models/supervised_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(
    sampler=dict(source_ratio=[1, 0]), dataset=dict(split='splits/dwl/1pct', unlabelled=None)
)
# 60 epochs of 3,000 patches, 16 per GPU, 4 GPUs: floor(ceil(3000 / 4) / 16) * 60
train_cfg = dict(max_iters=2760)
