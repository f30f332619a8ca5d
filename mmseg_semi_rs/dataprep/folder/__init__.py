# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Preparation of a user's own images and masks: survey, conversion, split and config."""
