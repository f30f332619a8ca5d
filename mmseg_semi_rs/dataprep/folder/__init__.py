# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Somebody's own images and masks: surveyed, converted, split, and a config written for them."""
