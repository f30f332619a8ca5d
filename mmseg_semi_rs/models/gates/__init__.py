# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Gates: how much weight a pseudo label gets in the unsupervised loss."""

from .adaptive import AdaptiveGate
from .base import Gate, build_gate
from .class_quantile import ClassQuantileGate
from .conformal import ConformalGate
from .fixed import FixedGate
from .residual import ResidualGate
from .soft import SoftGate

__all__ = [
    'AdaptiveGate',
    'ClassQuantileGate',
    'ConformalGate',
    'FixedGate',
    'Gate',
    'ResidualGate',
    'SoftGate',
    'build_gate',
]
