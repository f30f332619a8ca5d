# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One network as a PT2 file of :func:`torch.export.save`, compared before it is kept.

It runs with torch alone: ``torch.export.load('net.pt2').module()`` gives a function of what
:mod:`.graph_export` says. The metadata are its extra file ``metadata.json``.
"""

from __future__ import annotations

import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .export import TakenNetwork
from .graph_export import (
    GraphFile,
    Shape,
    WithPixels,
    described,
    dimensions,
    export_graph,
    random_pixels,
)

#: Name of the extra file with the metadata.
METADATA = 'metadata.json'


def export_pt2(taken: TakenNetwork, path: str | Path) -> GraphFile:
    """Write a network as PT2.

    Args:
        taken: The network.
        path: The file to write; ends with ``.pt2``.

    Returns:
        What was written.

    Raises:
        ImportError: If this torch has no ``torch.export``.
        ValueError: If the network cannot be exported, or what was written predicts otherwise.
    """
    if not hasattr(getattr(torch, 'export', None), 'save'):
        raise ImportError(
            f'A PT2 file needs torch.export, which torch {torch.__version__} does not have: take '
            'torch 2.1 or later, or --onnx.'
        )
    return export_graph(taken, path, 'PT2', partial(_write, taken), _difference)


def _write(
    taken: TakenNetwork, wrapped: WithPixels, example: Tensor, multiple: int | None, path: Path
) -> str:
    known = inspect.signature(torch.export.export).parameters
    settings: dict[str, Any] = {'strict': False} if 'strict' in known else {}
    if multiple is not None:
        settings['dynamic_shapes'] = {'images': dimensions(multiple)}
    program = torch.export.export(wrapped, (example,), **settings)
    extra = {METADATA: json.dumps(described(taken, multiple))}
    torch.export.save(program, path, extra_files=extra)
    return f'torch {torch.__version__}'


@torch.no_grad()
def _difference(wrapped: WithPixels, path: Path, shape: Shape) -> float:
    """Largest difference of the probabilities of random pixels, infinite if a shape differs."""
    module: Any = torch.export.load(path).module()
    pixels = random_pixels(shape)
    wanted, found = wrapped(pixels), module(pixels)
    return float((wanted - found).abs().max()) if found.shape == wanted.shape else float('inf')
