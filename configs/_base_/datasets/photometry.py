# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Of the strong views, as published; strength may be 'published', 'mild' or 'geometric'.
photometry = [dict(type='Photometry', strength='published')]
