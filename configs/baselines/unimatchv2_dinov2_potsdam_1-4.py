# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# 3,312 training patches, 1/4 labelled: 828, unlabelled U = 2,484.
# Lists and length of FixMatch; two strong views that share out the encoder's channels.
_base_ = './fixmatch_dinov2_potsdam_1-4.py'
train_dataloader = dict(dataset=_base_.two_strong)
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
