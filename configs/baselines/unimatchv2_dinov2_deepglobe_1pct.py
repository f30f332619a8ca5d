# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 12,045 training patches, 1 % labelled: 120, unlabelled U = 11,925.
# Lists and length of FixMatch; two strong views that share out the encoder's channels.
_base_ = './fixmatch_dinov2_deepglobe_1pct.py'
train_dataloader = dict(dataset=_base_.two_strong)
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
