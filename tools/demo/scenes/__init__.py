# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Fabricated aerial scenes with pixel labels, for demos and tests that need no download.

A scene is made in two steps. :func:`make_layout` plans a small town: a curved street grid, lots
with houses, apartment and commercial blocks, parks, building sites, trees and cars; it knows
materials, heights and labels, but no light. :func:`render_layout` photographs a layout in a
:class:`SceneStyle` (season, sun, haze, white balance, blur, noise). One layout in two styles is one
place on two dates.

The task is meant to be neither trivial nor hopeless: tile roofs, sport courts and bare soil share
their colours, so do flat roofs, roads and parking lots, or bushes and trees; what separates them is
texture, shape, height (shadow) and context. Season and light differ between scenes far more than
within a scene, hence a few labelled scenes do not cover the rest.

Labels are those of the files that MMSegmentation's Potsdam converter writes: 1..6, and 0 for
"ignore".
"""

from .layout import (
    CLASS_NAMES,
    IGNORE,
    METRES_PER_PIXEL,
    Layout,
    layout_elevation,
    layout_labels,
)
from .light import SceneStyle, render_layout
from .planner import make_layout
from .scene import make_scene, write_potsdam_layout

__all__ = [
    'CLASS_NAMES',
    'IGNORE',
    'METRES_PER_PIXEL',
    'Layout',
    'SceneStyle',
    'layout_elevation',
    'layout_labels',
    'make_layout',
    'make_scene',
    'render_layout',
    'write_potsdam_layout',
]
