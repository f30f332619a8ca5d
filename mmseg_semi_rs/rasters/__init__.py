# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Pixels of image files and rasters, whole or by windows: one reader for all who need them."""
