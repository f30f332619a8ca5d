# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Both students of the demo's Co2S on the three labelled scenes alone.
_base_ = './co2s_potsdam_3-32.py'

train_dataloader = dict(
    batch_size=2,
    sampler=dict(batch_size=2, source_ratio=[1, 0]),
    dataset=dict(unlabelled=None),
)
