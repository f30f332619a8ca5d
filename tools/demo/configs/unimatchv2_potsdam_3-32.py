# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# UniMatch V2 on the demo's scenes: FixMatch with two strong views, which share out the channels of
# the encoder's features.
_base_ = './_base_demo.py'

train_dataloader = dict(dataset=_base_.two_strong)
model = dict(semi_train_cfg=dict(feature_dropout=dict(keep=0.5)))
