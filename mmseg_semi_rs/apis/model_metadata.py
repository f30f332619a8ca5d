# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Metadata of an exported network for model catalogues and other programs.

A STAC item of the Machine Learning Model extension (https://github.com/stac-extensions/mlm), and
the keys in an ONNX file from which the QGIS plugin Deepness fills in its form
(https://github.com/PUTvision/qgis-plugin-deepness).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..rasters.levels import RasterToBands
from ..utils.files import write_atomic
from .export import ExportedNetwork, TakenNetwork
from .graph_export import GraphFile, has_bands

MLM_SCHEMA = 'https://stac-extensions.github.io/mlm/v1.4.0/schema.json'
_OVERLAP = 25  # percent of a window that overlaps its neighbour, as in rsseg predict
_TASK = 'semantic-segmentation'
#: Framework and writing function of the files of each suffix.
_GRAPHS = {'.onnx': ('ONNX', 'onnx.save'), '.pt2': ('PyTorch', 'torch.export.save')}


def _stretch(taken: TakenNetwork) -> tuple[list[float], list[float]]:
    """Return the file values of each channel that are mapped to 0 and to 255."""
    ends = []
    for key, usual in (('low', 0.0), ('high', 255.0)):
        given = [float(value) for value in taken.raster.get(key) or [usual]]
        ends.append(given * taken.channels if len(given) == 1 else given)
    return ends[0], ends[1]


def deepness_properties(taken: TakenNetwork, multiple: int | None) -> dict[str, str]:
    """Return the keys that Deepness reads from an ONNX file, with values as JSON.

    The plugin divides pixels by 255, subtracts a mean and divides by a standard deviation. The
    values given here undo that, since normalisation is part of the network, and map the values of
    the config's ``raster`` to 0-255. The resolution is unknown and left to the user.

    Args:
        taken: The network.
        multiple: Height and width may be any multiples of it; None allows ``taken.size`` alone.

    Returns:
        The keys. There is no tile size where the network takes no square tiles.
    """
    low, high = _stretch(taken)
    found: dict[str, Any] = {
        'model_type': 'Segmentor',
        'class_names': {str(index): name for index, name in enumerate(taken.classes)},
        'tiles_overlap': _OVERLAP,
        'standardization_mean': [value / 255 for value in low],
        'standardization_std': [
            (top - bottom) / 255**2 for bottom, top in zip(low, high, strict=True)
        ],
    }
    height, width = taken.size
    if multiple is not None or height == width:
        found['tile_size'] = min(height, width)
    return {key: json.dumps(value) for key, value in found.items()}


def stac_item(
    taken: TakenNetwork, network: ExportedNetwork, graphs: Sequence[GraphFile], name: str
) -> dict[str, Any]:
    """Describe exported files as a STAC item with the Machine Learning Model extension.

    Args:
        taken: The network.
        network: Its exported config and checkpoint.
        graphs: Its ONNX and PT2 files, at least one.
        name: Id of the item.

    Returns:
        The item. It has no location (``geometry`` is null), and paths are relative.
    """
    bands = [{'name': band} for band in _bands(taken)]
    return {
        'type': 'Feature',
        'stac_version': '1.1.0',
        'stac_extensions': [MLM_SCHEMA],
        'id': name,
        'geometry': None,
        'properties': {
            'datetime': datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ'),
            'bands': bands,
            'mlm:name': _model_name(name),
            'mlm:architecture': ' with '.join(
                type(part).__name__ for part in (taken.network.backbone, taken.network.decode_head)
            ),
            'mlm:tasks': [_TASK],
            'mlm:framework': 'PyTorch',
            'mlm:framework_version': str(torch.__version__),
            'mlm:total_parameters': sum(
                part.numel()
                for key, part in taken.network.named_parameters()
                if not key.startswith('auxiliary_head.')
            ),
            'mlm:input': [_input(taken, graphs)],
            'mlm:output': [_output(taken, graphs)],
        },
        'links': [],
        'assets': {
            **{graph.path.suffix[1:]: _model_asset(graph, bands) for graph in graphs},
            'checkpoint': {
                'href': f'./{network.checkpoint.name}',
                'type': 'application/octet-stream; application=pytorch',
                'title': 'Checkpoint of mmseg',
                'roles': ['mlm:weights'],
            },
            'config': {
                'href': f'./{network.config.name}',
                'type': 'text/x-python',
                'title': 'Config of mmseg',
                'roles': ['metadata'],
            },
        },
    }


def _bands(taken: TakenNetwork) -> list[str]:
    """Return the names of the channels: red, green and blue, or numbered bands."""
    if not has_bands(taken):
        return ['red', 'green', 'blue']
    numbers = taken.raster.get('bands') or range(1, taken.channels + 1)
    return [f'band{number}' for number in numbers]


def _model_name(name: str) -> str:
    """Return a valid name of letters, digits, ``_``, ``.`` and ``-`` that begins with a letter."""
    plain = re.sub(r'[^a-zA-Z0-9_.-]+', '-', name).strip('_.-')
    return plain if re.match(r'[a-zA-Z].', plain) else f'model-{plain}'.strip('-')


def _shape(graphs: Sequence[GraphFile], channels: int) -> list[int]:
    """Return the input shape that all files take, with -1 for dynamic dimensions."""
    if any(graph.multiple is None for graph in graphs):
        return [1, channels, *graphs[0].size]
    return [-1, channels, -1, -1]


def _input(taken: TakenNetwork, graphs: Sequence[GraphFile]) -> dict[str, Any]:
    multiple = math.lcm(*(graph.multiple or 1 for graph in graphs))
    sides = '' if multiple == 1 else f'; height and width are multiples of {multiple}'
    low, high = _stretch(taken)
    least, most = RasterToBands.FURTHEST if has_bands(taken) else (0, 255)
    scaling = [
        {
            'type': 'processing',
            'format': 'python',
            'expression': f'numpy.clip((value - {bottom}) / {top - bottom} * 255, {least}, {most})',
        }
        for bottom, top in zip(low, high, strict=True)
    ]
    return {
        'name': 'images',
        'description': f'0 to 255; normalisation is inside the network{sides}',
        'bands': _bands(taken),
        'input': {
            'shape': _shape(graphs, taken.channels),
            'dim_order': ['batch', 'channel', 'height', 'width'],
            'data_type': 'float32',
        },
        **({'value_scaling': scaling} if taken.raster.get('high') else {}),
    }


def _output(taken: TakenNetwork, graphs: Sequence[GraphFile]) -> dict[str, Any]:
    return {
        'name': 'probabilities',
        'description': 'Probability of each class; of one channel, that of the last class',
        'tasks': [_TASK],
        'result': {
            'shape': _shape(graphs, taken.network.out_channels),
            'dim_order': ['batch', 'class', 'height', 'width'],
            'data_type': 'float32',
        },
        'classification:classes': [
            {
                'value': value,
                'name': re.sub(r'[^0-9A-Za-z_-]+', '_', name),
                'description': name,
                'color_hint': '{:02X}{:02X}{:02X}'.format(*colour),
            }
            for value, (name, colour) in enumerate(zip(taken.classes, taken.palette, strict=True))
        ],
    }


def _model_asset(graph: GraphFile, bands: list[dict[str, str]]) -> dict[str, Any]:
    framework, written_by = _GRAPHS[graph.path.suffix]
    return {
        'href': f'./{graph.path.name}',
        'type': f'application/octet-stream; framework={framework.lower()}',
        'title': f'{framework} ({graph.version})',
        'description': f'Takes {graph.takes}',
        'roles': ['mlm:model'],
        'bands': bands,  # STAC allows bands of the item only if an asset has bands too
        'mlm:artifact_type': written_by,
    }


def write_stac_item(
    taken: TakenNetwork, network: ExportedNetwork, graphs: Sequence[GraphFile]
) -> Path:
    """Write :func:`stac_item` next to the config, as ``<name>.json``.

    Returns:
        The file.
    """
    path = network.config.with_suffix('.json')
    item = stac_item(taken, network, graphs, path.stem)
    write_atomic(path, (json.dumps(item, indent=2, ensure_ascii=False) + '\n').encode())
    return path
