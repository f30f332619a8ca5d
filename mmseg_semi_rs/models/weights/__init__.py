# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Public weight files: reading, recognising by key names, loading whole or not at all."""

from .files import WeightFile, load_state_dict_file, read_neighbour, read_weight_file
from .formats import FORMATS, KeyFormat
from .loading import Loadable, LoadReport, check_pretrained, load_pretrained
from .translation import Translation, translate

__all__ = [
    'FORMATS',
    'KeyFormat',
    'LoadReport',
    'Loadable',
    'Translation',
    'WeightFile',
    'check_pretrained',
    'load_pretrained',
    'load_state_dict_file',
    'read_neighbour',
    'read_weight_file',
    'translate',
]
