# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,283 training patches, 5 % labelled: 164, unlabelled U = 3,119.
_base_ = [
    '../_base_/datasets/potsdam_dwl.py',
    '../_base_/models/fixmatch_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split='splits/dwl/5pct'))
# 60 epochs over U, 8 per GPU, 4 GPUs: floor(ceil(3119 / 4) / 8) * 60
train_cfg = dict(max_iters=5820)
