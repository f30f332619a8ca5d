# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The supervised method from the second weights: who verifies the labels of semiearth.py."""

_base_ = './supervised.py'
