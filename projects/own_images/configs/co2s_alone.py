# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A control of co2s.py: the two students without each other, each is UniMatch by itself."""

_base_ = './co2s.py'

model = dict(semi_train_cfg=dict(stability=None))
