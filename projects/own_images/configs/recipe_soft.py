# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The recipe, whose pseudo labels are the probabilities of the three likeliest classes."""

_base_ = './recipe.py'

model = dict(semi_train_cfg=dict(soft_labels=3))
