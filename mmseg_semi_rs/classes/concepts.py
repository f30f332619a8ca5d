# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Names that people use for the classes, as prompts of vision-language models: plain data, to edit.

There is one tuple per class, in the order of the dataset's ids, which begins with the class's name
in words; paraphrases and kinds follow. The lists of WHDLD, LoveDA and Potsdam are those that Co2S
trained with (arXiv 2512.23035), even doubtful ones: 'roof' is an impervious surface there.
"""

from __future__ import annotations

from .colours import is_background

_NO_THING = ('clutter', 'foreground', 'unknown', 'unlabeled', 'void')

Concepts = tuple[tuple[str, ...], ...]

_MARS: Concepts = (
    ('martian soil', 'red soil', 'compact soil', 'dusty ground', 'flat regolith', 'fine soil'),
    ('sands', 'sand dunes', 'sand ripples', 'loose sand', 'drifted sand', 'wind-blown sand'),
    ('gravel', 'small stones', 'pebbles', 'scattered pebbles', 'stony ground', 'rock fragments'),
    ('bedrock', 'exposed bedrock', 'layered rock', 'flat rock slab', 'cracked bedrock', 'outcrop'),
    ('rocks', 'large rock', 'boulder', 'loose rock', 'isolated stone', 'sharp-edged rock'),
    ('tracks', 'wheel tracks', 'rover tracks', 'tyre marks in sand', 'ruts', 'trail of a rover'),
    ('shadows', 'shadow of a rock', 'shadow of the rover', 'dark shade', 'cast shadow', 'shade'),
    ('unknown', 'unclassified object', 'unidentified surface', 'rover part', 'blur', 'artefact'),
    ('background', 'sky', 'distant hills', 'horizon', 'distant mountains', 'hazy sky'),
)

CONCEPTS: dict[str, Concepts] = {
    'whdld': (
        (
            *('building', 'residential building', 'commercial building', 'industrial building'),
            *('high-rise', 'low-rise'),
        ),
        (
            *('road', 'highway', 'arterial road', 'residential road', 'asphalt road'),
            'concrete road',
        ),
        (
            *('pavement', 'sidewalk', 'pedestrian path', 'concrete pavement', 'brick pavement'),
            'stone pavement',
        ),
        ('vegetation', 'tree', 'shrub', 'grassland', 'farmland', 'vegetation patch'),
        (
            *('bare soil', 'unvegetated land', 'soil exposure', 'construction site', 'quarry'),
            'desert area',
        ),
        ('water', 'lake', 'river', 'pond', 'water body', 'water surface', 'reservoir'),
    ),
    'loveda': (
        (
            *('background', 'undeveloped land', 'open space', 'background area'),
            'unclassified region',
        ),
        (
            *('building', 'residential building', 'commercial building', 'industrial building'),
            *('public building', 'high-rise'),
        ),
        ('road', 'highway', 'urban road', 'rural road', 'asphalt road', 'concrete road'),
        ('water', 'lake', 'river', 'pond', 'reservoir', 'water body'),
        ('barren', 'bare soil', 'desert', 'construction site', 'mining area', 'exposed rock'),
        (
            *('forest', 'deciduous forest', 'evergreen forest', 'mixed forest', 'woodland'),
            'tree canopy',
        ),
        ('agriculture', 'farmland', 'cropland', 'orchard', 'vineyard', 'greenhouse'),
    ),
    'potsdam': (
        ('impervious surface', 'asphalt', 'concrete', 'pavement', 'roof', 'sidewalk'),
        (
            *('building', 'residential building', 'commercial building', 'church', 'factory'),
            'historical building',
        ),
        ('low vegetation', 'grass', 'lawn', 'meadow', 'pasture', 'flower bed'),
        ('tree', 'deciduous tree', 'evergreen tree', 'tree row', 'park tree', 'forest edge'),
        ('car', 'passenger car', 'truck', 'van', 'bus', 'parked vehicle'),
        ('clutter', 'fence', 'wall', 'railway', 'construction site', 'unclassified object'),
    ),
    'gid15': (
        (
            *('industrial land', 'factory', 'industrial park', 'warehouse', 'industrial plant'),
            'mining facility',
        ),
        (
            *('urban residential', 'city housing', 'apartment blocks', 'urban neighborhood'),
            *('residential district', 'high-density housing'),
        ),
        (
            *('rural residential', 'village', 'farmhouse', 'rural settlement', 'country houses'),
            'low-density housing',
        ),
        ('traffic land', 'road', 'highway', 'railway', 'airport runway', 'parking area'),
        (
            *('paddy field', 'rice field', 'paddy rice farmland', 'flooded field'),
            *('irrigated paddy', 'cultivated paddy'),
        ),
        (
            *('irrigated land', 'irrigated field', 'irrigated farmland', 'irrigated cropland'),
            *('field with irrigation canals', 'vegetable field'),
        ),
        (
            *('dry cropland', 'rainfed cropland', 'dry farmland', 'unirrigated field'),
            *('wheat field', 'plowed dry field'),
        ),
        ('garden plot', 'orchard', 'vineyard', 'tea plantation', 'nursery', 'fruit garden'),
        (
            *('arbor woodland', 'forest', 'dense trees', 'tall trees', 'tree canopy'),
            'timber forest',
        ),
        ('shrub land', 'shrubs', 'bushes', 'scrubland', 'thicket', 'low woody vegetation'),
        (
            *('natural grassland', 'wild grassland', 'meadow', 'steppe', 'natural pasture'),
            'prairie',
        ),
        (
            *('artificial grassland', 'lawn', 'planted grass', 'golf course', 'sown pasture'),
            'park grass',
        ),
        ('river', 'stream', 'canal', 'waterway', 'river channel', 'flowing water'),
        ('lake', 'large water body', 'natural lake', 'reservoir', 'lake surface', 'still water'),
        ('pond', 'fish pond', 'small water body', 'aquaculture pond', 'pool', 'farm pond'),
    ),
    'mer': _MARS,
    'msl': _MARS,
    'deepglobe': (
        (
            *('urban land', 'built-up area', 'houses', 'city blocks', 'industrial area'),
            'streets',
        ),
        ('agriculture land', 'farmland', 'cropland', 'plowed field', 'orchard', 'vineyard'),
        ('rangeland', 'grassland', 'meadow', 'pasture', 'shrubland', 'savanna'),
        ('forest', 'woodland', 'dense trees', 'tree canopy', 'clear cut in a forest'),
        ('water', 'river', 'lake', 'ocean', 'pond', 'wetland'),
        (
            *('barren land', 'bare soil', 'rock', 'desert', 'beach'),
            'mountain without vegetation',
        ),
        ('unknown', 'clouds'),
    ),
}


def can_be_asked_for(name: str) -> bool:
    """Return whether one could point at a class, unlike background, clutter and the like.

    Examples:
        >>> [can_be_asked_for(name) for name in ('road', 'Background', 'clutter', 'non-road')]
        [True, False, False, False]
    """
    return not is_background(name) and name.strip().lower() not in _NO_THING


def class_concepts(name: str) -> Concepts:
    """Return the concepts of each class of a dataset.

    Args:
        name: A key of :data:`CONCEPTS`.

    Returns:
        One tuple of concepts per class, beginning with the name of the class in words.

    Raises:
        ValueError: The dataset is unknown.

    Examples:
        >>> class_concepts('potsdam')[0][0]
        'impervious surface'
    """
    if name not in CONCEPTS:
        raise ValueError(
            f'There are no concepts for {name!r}: choose one of {", ".join(sorted(CONCEPTS))}, or '
            'write the lists themselves.'
        )
    return CONCEPTS[name]
