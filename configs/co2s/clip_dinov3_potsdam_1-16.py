# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 4,924 training tiles, 1/16 labelled: 307, unlabelled U = 4,617.
_base_ = './_base_/potsdam.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-16'))
# 80 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(4617 / 4) / 1) * 80
train_cfg = dict(max_iters=92400)
