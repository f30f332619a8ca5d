# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 2,736 training tiles, 1/4 labelled: 684, unlabelled U = 2,052.
_base_ = './_base_/gid15.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-4'))
# 80 epochs over U, 1 per GPU, 4 GPUs: floor(ceil(2052 / 4) / 1) * 80
train_cfg = dict(max_iters=41040)
