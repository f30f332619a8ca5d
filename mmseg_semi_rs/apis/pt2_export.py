# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Export of one network as a PT2 file of :func:`torch.export.save`, compared before it is kept.

The file runs with torch alone: ``torch.export.load('net.pt2').module()`` takes the input and
returns the output of :mod:`.graph_export`. The metadata are its extra file ``metadata.json``.
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
#: Smallest height and width in pixels where they are dynamic: below some size networks branch
#: differently, and a PT2 file holds a single branch.
SMALLEST = 32


def export_pt2(taken: TakenNetwork, path: str | Path) -> GraphFile:
    """Export a network as PT2.

    Args:
        taken: The network.
        path: The file to write; ends with ``.pt2``.

    Returns:
        The file and the result of the comparison.

    Raises:
        ImportError: This torch has no ``torch.export``.
        ValueError: The network cannot be exported, or the file predicts differently.
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
        # check at run time, rather than refuse, what cannot be proven for all sizes
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
    """Return the largest difference of the probabilities, infinite if a shape differs."""
    module: Any = torch.export.load(path).module()
    return max(furthest(wrapped(pixels), module(pixels)) for pixels in map(random_pixels, shapes))
