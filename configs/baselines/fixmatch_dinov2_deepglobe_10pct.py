# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 12,045 training patches, 10 % labelled: 1,204, unlabelled U = 10,841.
_base_ = [
    '../_base_/datasets/deepglobe_dwl.py',
    '../_base_/models/fixmatch_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split='splits/dwl/10pct'))
# 60 epochs over U, 8 per GPU, 4 GPUs: floor(ceil(10841 / 4) / 8) * 60
train_cfg = dict(max_iters=20280)
