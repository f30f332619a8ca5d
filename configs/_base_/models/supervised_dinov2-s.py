# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# The FixMatch model trained on labelled images alone. The student is reported; its average is
# validated beside it.
_base_ = './fixmatch_dinov2-s.py'

model = dict(semi_test_cfg=dict(predict_on='student'))
