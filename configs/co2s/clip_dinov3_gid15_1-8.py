# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 2,736 training tiles, 1/8 labelled: 342, unlabelled U = 2,394.
_base_ = './_base_/gid15.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-8'))
# 80 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(2394 / 4) / 1) * 80
train_cfg = dict(max_iters=47920)
