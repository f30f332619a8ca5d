# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Logs the losses without making every step wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, RuntimeInfoHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from ...utils.runner import logger_interval


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """``RuntimeInfoHook`` that reads the losses once per logging interval.

    mmengine's hook calls ``.item()`` on every loss in every iteration, which makes the host wait
    for the device. Here the values stay on the device and are fetched together before logging,
    validation or saving. The logged history is the same. With several processes it is the mean over
    all of them, which is the loss that is trained on.

    Args:
        interval: Iterations between fetches. Defaults to None, the logger hook's interval.
    """

    def __init__(self, interval: int | None = None) -> None:
        self.interval = interval
        self._pending: list[dict[str, Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Take over the logger's interval."""
        super().before_train(runner)
        if self.interval is None:
            self.interval = logger_interval(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Store the losses; fetch all stored ones when the interval ends or a checkpoint is due."""
        if outputs is not None:
            self._pending.append({
                key: value.detach() if isinstance(value, Tensor) else value
                for key, value in outputs.items()
            })  # fmt: skip
        # Only one rank saves, but all must take part in the all-reduce.
        saved = any(
            isinstance(hook, CheckpointHook)
            and not hook.by_epoch
            and self.every_n_train_iters(runner, hook.interval, hook.save_begin)
            for hook in runner.hooks
        )
        logged = self.every_n_train_iters(runner, self.interval)
        if logged or saved or self.is_last_train_iter(runner):
            self.flush(runner)

    def before_val(self, runner: Runner) -> None:
        """Fetch the stored losses, so that they are logged before the validation."""
        self.flush(runner)
        super().before_val(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Fetch the stored losses, so that a resumed log continues without a gap."""
        if self._pending:
            self.flush(runner, together=False)
            if 'message_hub' in checkpoint:
                checkpoint['message_hub'] = runner.message_hub.state_dict()

    def flush(self, runner: Runner, together: bool = True) -> None:
        """Pass the stored losses to the message hub, with one transfer from the device.

        Args:
            runner: The runner.
            together: Whether all ranks call this now, so that the mean over them can be taken.
        """
        pending, self._pending = self._pending, []
        tensors = [v for step in pending for v in step.values() if isinstance(v, Tensor)]
        means = torch.stack([v.float().mean() for v in tensors]) if tensors else torch.empty(0)
        if together and tensors:
            all_reduce(means, 'mean')
        numbers = iter(means.tolist())
        for step in pending:
            for key, value in step.items():
                number = next(numbers) if isinstance(value, Tensor) else value
                runner.message_hub.update_scalar(f'train/{key}', number)
