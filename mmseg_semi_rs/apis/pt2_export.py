# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One network as a PT2 file of :func:`torch.export.save`, compared before it is kept.

It runs with torch alone: ``torch.export.load('net.pt2').module()`` gives a function of what
:mod:`.graph_export` says. The metadata are its extra file ``metadata.json``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
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
    furthest,
    random_pixels,
)

#: Name of the extra file with the metadata.
METADATA = 'metadata.json'
#: Smallest height and width in pixels where they vary: networks take another way below some size,
#: and such a file has one way alone.
SMALLEST = 32


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
    wanted: dict[str, Any] = {
        'strict': False,
        # what is not known for all sizes is checked when it runs, rather than refused
        'prefer_deferred_runtime_asserts_over_guards': True,
    }
    settings = {key: value for key, value in wanted.items() if key in known}
    if multiple is not None:
        settings['dynamic_shapes'] = {'images': dimensions(multiple, SMALLEST)}
    program = torch.export.export(wrapped, (example,), **settings)
    extra = {METADATA: json.dumps(described(taken, multiple))}
    torch.export.save(program, path, extra_files=extra)
    return f'torch {torch.__version__}'


@torch.no_grad()
def _difference(wrapped: WithPixels, path: Path, shapes: Sequence[Shape]) -> float:
    """Largest difference of the probabilities of random pixels, infinite if a shape differs."""
    module: Any = torch.export.load(path).module()
    return max(furthest(wrapped(pixels), module(pixels)) for pixels in map(random_pixels, shapes))
