# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,771 training tiles, 1/8 labelled: 471, unlabelled U = 3,300.
_base_ = './_base_/loveda.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-8'))
# 80 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(3300 / 4) / 1) * 80
train_cfg = dict(max_iters=66000)
