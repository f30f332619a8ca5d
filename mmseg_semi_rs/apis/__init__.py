# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What is done with a trained model: prediction on images and rasters, export."""
