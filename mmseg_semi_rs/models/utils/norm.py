# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Control over the running statistics of batch norm layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def keep_running_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norm layers use the statistics of the batch without tracking them.

    Inside the block, layers in training mode normalise with the batch's statistics; the running
    mean and variance, which evaluation uses, do not change.

    Args:
        model: The model that contains the layers; layers in eval mode are not affected.
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


def forget_recomputation(model: nn.Module) -> None:
    """Stop batch norm layers from tracking forward passes repeated by checkpointing (``with_cp``).

    The backward pass repeats the forward pass of a checkpointed block, outside of any
    :func:`keep_running_statistics`, and would update the running statistics twice.

    Args:
        model: Left unchanged if it has no block with checkpointing.
    """
    if any(getattr(module, 'with_cp', False) for module in model.modules()):
        for layer in model.modules():
            known = _hold in layer._forward_pre_hooks.values()
            if isinstance(layer, _BatchNorm) and not known:
                layer.register_forward_pre_hook(_hold)
                # Recomputation may end in the middle of a layer, through an exception.
                layer.register_forward_hook(_release, always_call=True)


def _hold(layer: Any, _: Any) -> None:
    if torch._C._current_graph_task_id() != -1:  # within a backward pass
        layer.held_momentum, layer.momentum = layer.momentum, 0.0


def _release(layer: Any, *_: Any) -> None:
    if hasattr(layer, 'held_momentum'):
        layer.momentum = layer.held_momentum
        del layer.held_momentum
