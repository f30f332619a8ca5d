# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Semi-supervised semantic segmentation of remote-sensing images, as an MMSegmentation plugin.

Importing the package registers every part in mmseg's own registries, so that one line of a config,
``custom_imports = dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)``, is enough.
"""

from . import compat  # noqa: I001 - mends the OpenMMLab packages before anything imports them
from . import apis, datasets, engine, evaluation, models, purification, structures

__version__ = '0.1.0'

__all__ = [
    'apis',
    'compat',
    'datasets',
    'engine',
    'evaluation',
    'models',
    'purification',
    'structures',
]
