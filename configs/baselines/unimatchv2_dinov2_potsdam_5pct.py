# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,283 training patches, 5 % labelled: 164, unlabelled U = 3,119.
# Lists and length of FixMatch; two strong views that share out the encoder's channels.
_base_ = './fixmatch_dinov2_potsdam_5pct.py'
train_dataloader = dict(dataset=_base_.two_strong)
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
