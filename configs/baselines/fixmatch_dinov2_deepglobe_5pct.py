# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 12,045 training patches, 5 % labelled: 602, unlabelled U = 11,443.
_base_ = [
    '../_base_/datasets/deepglobe_dwl.py',
    '../_base_/models/fixmatch_dinov2-s.py',
    '../_base_/schedules/semi_adamw_poly.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split='splits/dwl/5pct'))
# 60 epochs over U, 8 per GPU, 4 GPUs: floor(ceil(11443 / 4) / 8) * 60
train_cfg = dict(max_iters=21420)
