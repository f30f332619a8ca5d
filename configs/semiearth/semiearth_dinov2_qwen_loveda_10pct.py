# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 10,060 training patches, 10 % labelled: 1,006, unlabelled U = 9,054.
_base_ = ['../_base_/datasets/loveda_scene.py', './_base_/qwen_loveda.py']
train_dataloader = dict(
    batch_size=8,  # per GPU: 4 labelled + 4 unlabelled
    sampler=dict(batch_size=8),
    dataset=dict(split='splits/scene/10pct'),
)
# 20 epochs over U, 4 per GPU, 8 GPUs: floor(ceil(9054 / 8) / 4) * 20
train_cfg = dict(max_iters=5660)
