# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 851 training tiles, 1/8 labelled: 106, unlabelled U = 745.
_base_ = './_base_/mer.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-8'))
# 150 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(745 / 4) / 1) * 150
train_cfg = dict(max_iters=28050)
