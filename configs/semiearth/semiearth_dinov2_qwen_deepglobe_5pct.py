# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 12,045 training patches, 5 % labelled: 602, unlabelled U = 11,443.
_base_ = ['../_base_/datasets/deepglobe_dwl.py', './_base_/qwen_deepglobe.py']
train_dataloader = dict(
    batch_size=8,  # per GPU: 4 labelled + 4 unlabelled
    sampler=dict(batch_size=8),
    dataset=dict(split='splits/dwl/5pct'),
)
# 20 epochs over U, 4 per GPU, 8 GPUs: floor(ceil(11443 / 8) / 4) * 20
train_cfg = dict(max_iters=7140)
