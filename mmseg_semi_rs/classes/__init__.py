# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Class names and the colours they are drawn in, as plain data."""

from .colours import class_colours, is_background
from .concepts import CONCEPTS, class_concepts
from .tables import METAINFO

__all__ = ['CONCEPTS', 'METAINFO', 'class_colours', 'class_concepts', 'is_background']
