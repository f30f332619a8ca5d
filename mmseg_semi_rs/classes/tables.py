# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Names and colours of the classes of the package's own datasets, in the order of their ids."""

from __future__ import annotations

from typing import Any

from .concepts import class_concepts

_MARS_CLASSES = (
    *('martian_soil', 'sands', 'gravel', 'bedrock', 'rocks', 'tracks', 'shadows', 'unknown'),
    'background',
)
_MARS_PALETTE = [
    [128, 0, 0],
    [0, 128, 0],
    [128, 128, 0],
    [0, 0, 128],
    [128, 0, 128],
    [0, 128, 128],
    [128, 128, 128],
    [64, 0, 0],
    [192, 0, 0],
]
_TABLES: dict[str, dict[str, Any]] = dict(
    whdld=dict(
        classes=('building', 'road', 'pavement', 'vegetation', 'bare_soil', 'water'),
        palette=[
            [255, 0, 0],
            [255, 255, 0],
            [192, 192, 0],
            [0, 255, 0],
            [128, 128, 128],
            [0, 0, 255],
        ],
    ),
    deepglobe=dict(
        classes=('urban', 'agriculture', 'rangeland', 'forest', 'water', 'barren', 'unknown'),
        palette=[
            [0, 255, 255],
            [255, 255, 0],
            [255, 0, 255],
            [0, 255, 0],
            [0, 0, 255],
            [255, 255, 255],
            [0, 0, 0],
        ],
    ),
    gid15=dict(
        classes=(
            *('industrial_land', 'urban_residential', 'rural_residential', 'traffic_land'),
            *('paddy_field', 'irrigated_land', 'dry_cropland', 'garden_plot', 'arbor_woodland'),
            *('shrub_land', 'natural_grassland', 'artificial_grassland', 'river', 'lake', 'pond'),
        ),
        palette=[
            [200, 0, 0],
            [250, 0, 150],
            [200, 150, 150],
            [250, 150, 150],
            [0, 200, 0],
            [150, 250, 0],
            [150, 200, 150],
            [200, 0, 200],
            [150, 0, 250],
            [150, 150, 250],
            [250, 200, 0],
            [200, 200, 0],
            [0, 0, 200],
            [0, 150, 200],
            [0, 200, 250],
        ],
    ),
    mer=dict(classes=_MARS_CLASSES, palette=_MARS_PALETTE),
    msl=dict(classes=_MARS_CLASSES, palette=_MARS_PALETTE),
)

# METAINFO of each dataset as in mmseg, with the concepts of each class.
METAINFO: dict[str, dict[str, Any]] = {
    name: dict(table, concepts=[list(names) for names in class_concepts(name)])
    for name, table in _TABLES.items()
}
