# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Public weight files: read, recognised by their key names, and loaded whole or not at all."""

from .checkpoints import differences, foreign_weights_refused, load_from_local, load_weights
from .files import WeightFile, read_neighbour, read_weight_file
from .formats import FORMATS, KeyFormat
from .loading import Loadable, LoadReport, check_pretrained, load_pretrained
from .translation import Translation, translate
from .widening import Pretrained, widened

__all__ = [
    'FORMATS',
    'KeyFormat',
    'LoadReport',
    'Loadable',
    'Pretrained',
    'Translation',
    'WeightFile',
    'check_pretrained',
    'differences',
    'foreign_weights_refused',
    'load_from_local',
    'load_pretrained',
    'load_weights',
    'read_neighbour',
    'read_weight_file',
    'translate',
    'widened',
]
