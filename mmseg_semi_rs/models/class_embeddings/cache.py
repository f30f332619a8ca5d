# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Cache files of computed text embeddings."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from mmengine.logging import print_log
from torch import Tensor

from ...utils.files import write_atomic


def _tensor_digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def read_embedding(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Read a cached embedding.

    Args:
        path: A file written by :func:`write_embedding`.
        shape: N, C.

    Returns:
        Shape (N, C), float32; None if the file is missing, or if it is damaged, which is logged.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(str(path), framework='pt') as file:
            embedding = file.get_tensor('embedding')
            digest = (file.metadata() or {}).get('sha256')
    except (OSError, ValueError, safetensors.SafetensorError):
        embedding, digest = torch.empty(0), None
    if (
        embedding.shape == shape
        and embedding.dtype == torch.float32
        and _tensor_digest(embedding) == digest
    ):
        return embedding
    print_log(
        f'The kept text embeddings {path} are damaged and are computed anew.',
        logger='current',
        level=logging.WARNING,
    )
    return None


def write_embedding(path: Path, embedding: Tensor, settings: Mapping[str, Any]) -> None:
    """Cache an embedding atomically: a reader sees the whole file or none.

    If the folder is not writable, a warning is logged.

    Args:
        path: File to write; its folder is created.
        embedding: Shape (N, C), float32, on the CPU.
        settings: What it was computed from, stored as readable metadata.
    """
    metadata = {key: json.dumps(value) for key, value in settings.items()}
    metadata['sha256'] = _tensor_digest(embedding)
    try:
        content = safetensors.torch.save({'embedding': embedding.contiguous()}, metadata)
        write_atomic(path, content, shared=True)  # save_file would lock out other users
    except (OSError, safetensors.SafetensorError) as error:
        print_log(
            f'The text embeddings cannot be kept in {path.parent} ({error}), so the next run '
            'computes them again.',
            logger='current',
            level=logging.WARNING,
        )
