# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""RS-MTDF after a burn-in: FixMatch, distilled from a larger frozen network and fused with it."""

_base_ = ['./base.py', '../../../configs/_base_/models/rsmtdf_efficientnet-lite0.py']

model = dict(semi_train_cfg=dict(unsup_start=0.4))
