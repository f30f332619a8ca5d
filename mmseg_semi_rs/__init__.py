# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Semi-supervised semantic segmentation of remote-sensing images, as an MMSegmentation plugin.

Importing the package registers every part in mmseg's own registries, so that one line of a config,
``custom_imports = dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)``, is enough.
The package's own commands alone call :func:`register_all` themselves, after they have read their
arguments, since it takes seconds and several of them need no part.
"""

from .utils.commands import registers_itself

__version__ = '0.2.0'

__all__ = [
    'apis',
    'compat',
    'datasets',
    'engine',
    'evaluation',
    'models',
    'purification',
    'register_all',
    'structures',
]


def register_all() -> None:
    """Register every part in mmseg's registries; again does nothing.

    Raises:
        ImportError: mmengine, mmcv, mmseg or mmpretrain is not installed.
    """
    from . import compat  # noqa: F401, I001 - mends the OpenMMLab packages before others import them
    from . import apis, datasets, engine, evaluation, models, purification, structures  # noqa: F401


if not registers_itself():
    register_all()
