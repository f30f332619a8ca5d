# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 4,924 training tiles, 1/4 labelled: 1,231, unlabelled U = 3,693.
_base_ = './_base_/potsdam.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-4'))
# 80 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(3693 / 4) / 1) * 80
train_cfg = dict(max_iters=73920)
