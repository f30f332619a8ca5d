# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Semi-supervised semantic segmentation of remote-sensing images, as an MMSegmentation plugin.

Importing the package registers every part in mmseg's own registries, so one line in a config is
enough: ``custom_imports = dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)``. Only the
package's own commands call :func:`register_all` themselves, after reading their arguments, because
registration takes seconds and some commands do not need it.
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
    """Register every part in mmseg's registries; further calls do nothing.

    Raises:
        ImportError: If mmengine, mmcv, mmseg or mmpretrain is not installed.
    """
    from . import compat  # noqa: F401, I001 - mends the OpenMMLab packages before others import them
    from . import apis, datasets, engine, evaluation, models, purification, structures  # noqa: F401


if not registers_itself():
    register_all()
