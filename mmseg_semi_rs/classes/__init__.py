# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Class names and the colours they are drawn in, as plain data."""

from .colours import class_colours, is_background
from .concepts import CONCEPTS, can_be_asked_for, class_concepts
from .tables import METAINFO

__all__ = [
    'CONCEPTS',
    'METAINFO',
    'can_be_asked_for',
    'class_colours',
    'class_concepts',
    'is_background',
]
