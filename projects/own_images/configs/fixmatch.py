# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""FixMatch with an EMA teacher."""

_base_ = './base.py'
