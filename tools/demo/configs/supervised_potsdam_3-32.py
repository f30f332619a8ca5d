# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The demo's three labelled scenes alone: same student, same steps, 4 labelled crops in each.
_base_ = './_base_demo.py'

train_dataloader = dict(
    batch_size=4,
    sampler=dict(batch_size=4, source_ratio=[1, 0]),
    dataset=dict(unlabelled=None),
)
