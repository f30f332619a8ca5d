# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Lists of labelled, unlabelled, validation and test tiles."""
