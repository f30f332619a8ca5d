# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Ends a training whose losses or weights are no longer finite."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from ...utils.errors import RunStoppedError
from ...utils.runner import logger_interval, unwrap

_LISTED = 4  # images that the message names


@HOOKS.register_module()
class FiniteGuardHook(Hook):
    """Stops when a loss or a weight is not finite, and keeps the last good checkpoint.

    Losses stay on the device and are read together at the logger's interval and before each
    checkpoint, which is not written if something is wrong. Non-finite gradients are detected by the
    weights, which are checked at the same time; steps skipped by a loss scaler do no harm.

    Args:
        patience: Number of consecutive steps with a non-finite loss after which the run stops.
            Non-finite weights stop it at once.
        interval: Iterations between checks. Defaults to None, the logger's interval.

    Raises:
        ValueError: If a number is out of its range.
        RunStoppedError: In training; it names the step, the loss or weight, the images and the
            remedy.
    """

    priority = 'ABOVE_NORMAL'

    def __init__(self, patience: int = 3, interval: int | None = None) -> None:
        if patience < 1 or (interval is not None and interval < 1):
            raise ValueError(
                f'FiniteGuardHook patience={patience} and interval={interval} must be at least 1.'
            )
        self.patience, self.interval = patience, interval
        self._pending: list[tuple[int, dict[str, Tensor], list[str]]] = []
        self._wrong: deque[tuple[int, str, list[str]]] = deque(maxlen=patience)

    def before_train(self, runner: Runner) -> None:
        """Take over the logger's interval."""
        if self.interval is None:
            self.interval = logger_interval(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Store the losses of the step; check all stored ones when the interval ends."""
        losses = {
            name: value.detach().float().mean()
            for name, value in (outputs or {}).items()
            if 'loss' in name and isinstance(value, Tensor)
        }
        self._pending.append((runner.iter + 1, losses, list(_images(data_batch))))
        if self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner):
            self.look(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check first, so that no checkpoint of a diverged training is written."""
        self.look(runner)

    def look(self, runner: Runner) -> None:
        """Check the stored losses and the weights, with one transfer from the device.

        Raises:
            RunStoppedError: See the class.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        named = [
            (name, parameter.detach())
            for name, parameter in unwrap(runner.model).named_parameters()
            if parameter.requires_grad
        ]
        # the largest magnitude, since a sum of squares would overflow in half precision
        weights = torch.stack([value.abs().amax().float() for _, value in named])
        flat = [value for _, losses, _ in pending for value in losses.values()]
        read = torch.cat([torch.stack(flat), weights]) if flat else weights
        finite = iter(read.isfinite().tolist())
        for step, losses, images in pending:
            wrong = [name for name in losses if not next(finite)]
            if wrong:
                self._wrong.append((step, wrong[0], images))
            else:
                self._wrong.clear()
            if len(self._wrong) == self.patience:
                self._stop(f'{self._wrong[0][1]} is not finite', pending)
        for (name, _), good in zip(named, finite, strict=True):
            if not good:
                self._stop(f'the weight {name} is not finite', pending)

    def _stop(self, what: str, pending: list[tuple[int, dict[str, Tensor], list[str]]]) -> None:
        step, _, images = self._wrong[0] if self._wrong else (pending[0][0], '', pending[0][2])
        since = f'since step {step}' if self._wrong else f'at or after step {step}'
        shown = ', '.join(images[:_LISTED]) + (', ...' if len(images) > _LISTED else '')
        raise RunStoppedError(
            f'The training diverged: {what} {since}, whose batch had {shown or "unnamed images"}. '
            'No checkpoint was written of it; look at these images and their labels, lower '
            'optim_wrapper.optimizer.lr or add optim_wrapper.clip_grad=dict(max_norm=1.0), train '
            'without --amp, and go on with --resume.'
        )


def _images(batch: Any) -> Iterator[str]:
    """Yield the image paths of a batch, each once."""
    paths: set[str] = set()
    todo = [batch.get('data_samples')] if isinstance(batch, Mapping) else []
    while todo:
        entry = todo.pop(0)
        if isinstance(entry, Mapping):
            todo += entry.values()
        elif isinstance(entry, (list, tuple)):
            todo += entry
        else:
            path = getattr(entry, 'img_path', None)
            if path and path not in paths:
                paths.add(path)
                yield str(path)
