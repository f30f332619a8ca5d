# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 10,088 training patches, 1 % labelled: 100, unlabelled U = 9,988.
_base_ = [
    '../_base_/datasets/loveda_dwl.py',
    '../_base_/models/fixmatch_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split='splits/dwl/1pct'))
# 60 epochs over U, 8 per GPU, 4 GPUs: floor(ceil(9988 / 4) / 8) * 60
train_cfg = dict(max_iters=18720)
model = dict(student=dict(decode_head=dict(num_classes=7)))
