# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,283 training patches, 10 % labelled: 328, unlabelled U = 2,955.
_base_ = [
    '../_base_/datasets/potsdam_dwl.py',
    '../_base_/models/fixmatch_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split='splits/dwl/10pct'))
# 60 epochs over U, 8 per GPU, 4 GPUs: floor(ceil(2955 / 4) / 8) * 60
train_cfg = dict(max_iters=5520)
