# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 12,050 training patches, 1/4 labelled: 3,012, unlabelled U = 9,038.
# Lists and length of FixMatch; two strong views that share out the encoder's channels.
_base_ = './fixmatch_dinov2_deepglobe_1-4.py'
train_dataloader = dict(dataset=_base_.two_strong)
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
