# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# FixMatch with an EMA teacher on the demo's scenes.
_base_ = './_base_demo.py'
