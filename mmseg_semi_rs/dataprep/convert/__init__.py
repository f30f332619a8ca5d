# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Conversion of downloaded datasets into tiles in the layout that mmseg's dataset classes read."""
