# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Data structures passed between the parts."""

from .pseudo_label import PseudoLabel

__all__ = ['PseudoLabel']
