# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What normalisation layers remember."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def keep_running_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norm layers use the batch's statistics but not remember them.

    Inside the block every layer normalises with the statistics of what passes through; the running
    mean and variance, which evaluation uses, stay as they were.

    Args:
        model (nn.Module): The model to hold; layers in eval mode are not affected.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
