# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,141 training tiles, 1/8 labelled: 392, unlabelled U = 2,749.
_base_ = './_base_/msl.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-8'))
# 80 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(2749 / 4) / 1) * 80
train_cfg = dict(max_iters=55040)
