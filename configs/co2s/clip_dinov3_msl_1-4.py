# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,141 training tiles, 1/4 labelled: 785, unlabelled U = 2,356.
_base_ = './_base_/msl.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-4'))
# 80 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(2356 / 4) / 1) * 80
train_cfg = dict(max_iters=47120)
