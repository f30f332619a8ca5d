# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,283 training patches, 10 % labelled: 328, unlabelled U = 2,955.
_base_ = ['../_base_/datasets/potsdam_semiearth.py', './_base_/qwen_potsdam.py']
train_dataloader = dict(
    batch_size=8,  # per GPU: 4 labelled + 4 unlabelled
    sampler=dict(batch_size=8),
    dataset=dict(split='splits/semiearth/10pct'),
)
# 50 epochs over U, 4 per GPU, 8 GPUs: floor(ceil(2955 / 8) / 4) * 50
train_cfg = dict(max_iters=4600)
