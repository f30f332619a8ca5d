# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What is passed between the parts: pseudo labels."""

from .pseudo_label import PseudoLabel

__all__ = ['PseudoLabel']
