# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Access to the pixels of image files and rasters, whole or by windows."""
