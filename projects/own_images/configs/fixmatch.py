# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""FixMatch with an EMA teacher as published: 0.95, from the first step on."""

_base_ = ['./base.py', '../../../configs/_base_/models/fixmatch_efficientnet-lite0.py']
