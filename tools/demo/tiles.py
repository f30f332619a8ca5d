# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiles of fabricated places as networks see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TILE = 128
PATCH = 8
GRID = TILE // PATCH
STATISTICS: dict[str, dict[str, list[float]]] = {
    'dinov2': dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    'clip': dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
}


def turned(image: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    """Turn an image (H, W, ...) by quarters, and then perhaps mirror it."""
    rotated = np.rot90(image, turns)
    return np.ascontiguousarray(rotated[:, ::-1] if mirrored else rotated)


def normalised(images: Sequence[np.ndarray], name: str) -> Tensor:
    """Images (TILE, TILE, 3) on the 0-255 scale as (B, 3, TILE, TILE) for a network."""
    mean, std = (torch.tensor(STATISTICS[name][key]).view(1, 3, 1, 1) for key in ('mean', 'std'))
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() - mean) / std
