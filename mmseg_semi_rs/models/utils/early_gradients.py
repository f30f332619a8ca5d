# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Backward passes that run early, so that activations of several networks never coexist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Losses = dict[str, Tensor]


def early_backward(compute: Callable[[], Losses], params: Sequence[Tensor]) -> Losses:
    """Compute losses and, at once, the gradients of their sum; then free the graph.

    The losses that come back have the same values, and passing a gradient into them hands out the
    stored one. So the step stays the usual one (loss, backward, optimizer; DDP, gradient
    accumulation), while of N networks whose losses are made this way one after the other only one
    has its activations in memory. What is kept is a gradient for each parameter.

    The losses must be added up with equal weights, as mmengine's ``parse_losses`` does. They cannot
    be differentiated twice. Under float16 autocast the gradients inside are not loss-scaled: use
    bfloat16.

    Args:
        compute (Callable): Returns named scalars. Those with 'loss' in the name are summed and
            differentiated, the others are for the log.
        params (Sequence[Tensor]): Leaves to differentiate for. A leaf that no loss depends on gets
            no gradient.

    Returns:
        dict[str, Tensor]: What ``compute`` returned, free of its graph.
    """
    if not torch.is_grad_enabled():
        return compute()
    noted: Losses = {}
    values = _EarlyBackward.apply(compute, noted, *params)
    losses = [name for name in noted if 'loss' in name]
    return noted | dict(zip(losses, values.unbind(), strict=True))


def differentiate(total: Tensor, params: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients of a scalar; None for a leaf that it does not depend on."""
    return torch.autograd.grad(total, params, allow_unused=True)


class _EarlyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Callable[[], Losses], noted: Losses, *params: Tensor) -> Tensor:
        with torch.enable_grad():
            found = compute()
            values = torch.stack([value for name, value in found.items() if 'loss' in name])
            total = values.sum()
        # Backward operators follow the precision of the forward ones without autocast's help.
        with torch.autocast(total.device.type, enabled=False):
            ctx.gradients = differentiate(total, params)
        noted.update({name: value.detach() for name, value in found.items()})
        return values.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        weight = weights.mean()  # equal for all: 1, or 1 / accumulated steps
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if grad is None else grad.mul_(weight) for grad in gradients)
