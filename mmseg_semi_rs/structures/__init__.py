# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What is passed between the parts: pseudo labels, and what classes are called."""

from .concepts import CONCEPTS, class_concepts
from .pseudo_label import PseudoLabel

__all__ = ['CONCEPTS', 'PseudoLabel', 'class_concepts']
