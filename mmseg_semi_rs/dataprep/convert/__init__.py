# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Downloaded data sets cut into the layout that mmseg's dataset classes read."""
