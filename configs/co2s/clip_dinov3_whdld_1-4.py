# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 4,446 training tiles, 1/4 labelled: 1,111, unlabelled U = 3,335.
_base_ = './_base_/whdld.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-4'))
# 80 epochs over U, 2 per GPU, 4 GPUs: floor(ceil(3335 / 4) / 2) * 80
train_cfg = dict(max_iters=33360)
