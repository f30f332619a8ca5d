# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Transforms that create several views of one sample and track its geometry."""

from .bands import BandPhotometry, LoadBands
from .formatting import AddValidMask, PackSemiInputs
from .geometry import GeometryStep, TrackGeometry, homography, replay
from .keep_in_memory import KeepInMemory
from .label_warp import LabelWarp
from .multi_branch import MultiBranch
from .photometry import Photometry
from .resize import AntialiasedResize

__all__ = [
    'AddValidMask',
    'AntialiasedResize',
    'BandPhotometry',
    'GeometryStep',
    'KeepInMemory',
    'LabelWarp',
    'LoadBands',
    'MultiBranch',
    'PackSemiInputs',
    'Photometry',
    'TrackGeometry',
    'homography',
    'replay',
]
