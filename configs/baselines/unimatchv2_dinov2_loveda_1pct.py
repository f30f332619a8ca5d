# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 10,088 training patches, 1 % labelled: 100, unlabelled U = 9,988.
# Lists and length of FixMatch; two strong views that share out the encoder's channels.
_base_ = './fixmatch_dinov2_loveda_1pct.py'
train_dataloader = dict(dataset=_base_.two_strong)
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
