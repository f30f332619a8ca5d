# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,771 training tiles, 1/24 labelled: 157, unlabelled U = 3,614.
_base_ = './_base_/loveda.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-24'))
# 80 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(3614 / 4) / 1) * 80
train_cfg = dict(max_iters=72320)
