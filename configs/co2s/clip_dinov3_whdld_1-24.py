# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 4,446 training tiles, 1/24 labelled: 185, unlabelled U = 4,261.
_base_ = './_base_/whdld.py'

train_dataloader = dict(dataset=dict(split='splits/co2s/1-24'))
# 80 epochs over U, 2 per GPU, 4 GPUs: floor(ceil(4261 / 4) / 2) * 80
train_cfg = dict(max_iters=42640)
