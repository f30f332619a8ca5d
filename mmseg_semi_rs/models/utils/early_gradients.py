# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Backward passes that run early, so that memory holds the activations of one pass at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...utils.step_parts import step_part

Losses = dict[str, Tensor]


def early_backward(parts: Sequence[Callable[[], Losses]], params: Sequence[Tensor]) -> Losses:
    """Compute losses part by part, with the gradients of their sum, and free each graph at once.

    The returned losses have the same values, and backpropagating through them yields the stored
    gradients. The training step thus stays the usual one (loss, backward, optimizer; DDP, gradient
    accumulation), but only one part of one network has its activations in memory at a time. One
    gradient per parameter is stored.

    The losses must be added up with equal weights, as mmengine's ``parse_losses`` does. They cannot
    be differentiated twice.

    Args:
        parts: Functions that return named scalars; scalars of the same name are added. Those with
            'loss' in the name are summed and differentiated, the others are only logged.
        params: Leaf tensors to differentiate for. A leaf that no loss depends on gets no gradient.

    Returns:
        The scalars, detached from the graphs of the parts.

    Raises:
        ValueError: Under float16 autocast: gradients are computed before the loss is scaled, so
            small ones would become 0.
    """
    noted: Losses = {}
    if not torch.is_grad_enabled() or not params:
        with torch.no_grad():
            for part in parts:
                _add(noted, part())
        return noted
    if _computes_in_float16():
        raise ValueError(
            'Gradients that are computed early cannot be loss-scaled, which float16 needs: train '
            "in bfloat16 (optim_wrapper=dict(type='AmpOptimWrapper', dtype='bfloat16', "
            'loss_scale=dict(enabled=False))), or in float32.'
        )
    values = _EarlyBackward.apply(parts, noted, *params)
    losses = [name for name in noted if 'loss' in name]
    return noted | dict(zip(losses, values.unbind(), strict=True))


def _add(noted: Losses, losses: Losses) -> None:
    """Add scalars by name, without their graphs."""
    for name, value in losses.items():
        noted[name] = noted[name] + value.detach() if name in noted else value.detach()


def _computes_in_float16() -> bool:
    on_gpu = torch.is_autocast_enabled() and torch.get_autocast_gpu_dtype() == torch.float16
    on_cpu = torch.is_autocast_cpu_enabled() and torch.get_autocast_cpu_dtype() == torch.float16
    return on_gpu or on_cpu


@step_part('backward')
def differentiate(total: Tensor, params: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients of a scalar; None for a leaf that it does not depend on."""
    return torch.autograd.grad(total, params, allow_unused=True)


class _EarlyBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, parts: Sequence[Callable[[], Losses]], noted: Losses, *params: Tensor
    ) -> Tensor:
        sums: list[Tensor | None] = [None] * len(params)
        for part in parts:
            with torch.enable_grad():
                losses = part()
                total = torch.stack([v for name, v in losses.items() if 'loss' in name]).sum()
            _add(noted, losses)
            del losses
            # Backward operators follow the precision of the forward ones without autocast.
            with torch.autocast(total.device.type, enabled=False):
                gradients = differentiate(total, params)
            sums = [
                new if old is None else (old if new is None else old.add_(new))
                for old, new in zip(sums, gradients, strict=True)
            ]
        ctx.gradients = sums
        return torch.stack([value for name, value in noted.items() if 'loss' in name])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        weight = weights.mean()  # equal for all: 1, or 1 / accumulated steps
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError('Gradients that were computed early can be handed out only once.')
        return None, None, *(None if grad is None else grad.mul_(weight) for grad in gradients)
