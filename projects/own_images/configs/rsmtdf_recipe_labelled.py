# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The control of rsmtdf_recipe.py: the same, distilling on the labelled images alone."""

_base_ = './rsmtdf_recipe.py'

model = dict(student=dict(decode_head=dict(loss_distill=dict(views=('sup',)))))
