# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Export of one network as an ONNX file, compared with PyTorch before it is kept.

Input, output and metadata are described in :mod:`.graph_export`; the metadata also have the keys
that the QGIS plugin Deepness reads (:mod:`.model_metadata`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .export import TakenNetwork
from .graph_export import (
    GraphFile,
    Shape,
    described,
    dimensions,
    export_graph,
    furthest,
    random_pixels,
)
from .model_metadata import deepness_properties


def export_onnx(taken: TakenNetwork, path: str | Path, opset: int | None = None) -> GraphFile:
    """Export a network as ONNX.

    Args:
        taken: The network.
        path: The file to write.
        opset: Version of the ONNX operator set. Defaults to that of ``torch.onnx``.

    Returns:
        The file and the result of the comparison.

    Raises:
        ImportError: onnx, onnxruntime or onnxscript is missing.
        ValueError: The network cannot be exported, or onnxruntime predicts differently.
    """
    for name in needed():
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"ONNX needs {name}, which is not installed: pip install 'mmseg_semi_rs[onnx]'."
            ) from error
    return export_graph(taken, path, 'ONNX', partial(_write, taken, opset), _difference)


def needed() -> tuple[str, ...]:
    """Return the names of the packages that :func:`export_onnx` imports."""
    return ('onnx', 'onnxruntime', *(('onnxscript',) if _follows_shapes() else ()))


def _follows_shapes() -> bool:
    """Return whether this torch has the exporter with dynamic shapes."""
    return 'dynamic_shapes' in inspect.signature(torch.onnx.export).parameters


def _write(
    taken: TakenNetwork,
    opset: int | None,
    wrapped: Any,
    example: Tensor,
    multiple: int | None,
    path: Path,
) -> str:
    """Run an exporter and add the metadata; ``multiple`` is as in :func:`.dimensions`."""
    names: dict[str, Any] = {'input_names': ['images'], 'output_names': ['probabilities']}
    if opset is not None:
        names['opset_version'] = opset
    if _follows_shapes():
        dynamic = None if multiple is None else {'images': dimensions(multiple)}
        program: Any = torch.onnx.export(
            wrapped,
            (example,),
            None,
            dynamo=True,
            dynamic_shapes=dynamic,
            verbose=False,
            **names,
        )
        program.save(str(path), external_data=False)
    else:
        axes = {0: 'batch', 2: 'height', 3: 'width'}
        torch.onnx.export(
            wrapped,
            (example,),
            str(path),
            dynamic_axes=None if multiple is None else {'images': axes, 'probabilities': axes},
            **names,
        )
    properties = described(taken, multiple) | deepness_properties(taken, multiple)
    return f'opset {_describe(path, properties)}'


@torch.no_grad()
def _difference(wrapped: Callable[[Tensor], Tensor], path: Path, shapes: Sequence[Shape]) -> float:
    """Return the largest difference of the probabilities, infinite if a shape differs."""
    runtime = importlib.import_module('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(
        str(path), sess_options=options, providers=['CPUExecutionProvider']
    )
    return max(
        furthest(
            wrapped(pixels), torch.from_numpy(session.run(None, {'images': pixels.numpy()})[0])
        )
        for pixels in map(random_pixels, shapes)
    )


def _describe(path: Path, properties: dict[str, str]) -> int:
    """Write the metadata into the file, and return its opset."""
    onnx = importlib.import_module('onnx')
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, str(path))
    return next(item.version for item in model.opset_import if item.domain in ('', 'ai.onnx'))
