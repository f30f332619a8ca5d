# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Averages the student into the teacher."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS


def ema_momentum(update: int, momentum: float, warmup: bool) -> float:
    """Momentum of one EMA update: min(1 - 1 / (t + 1), m) while warming up.

    Args:
        update (int): How many updates came before, t; t = 0 gives 0, a copy of the student.
        momentum (float): The cap m, in [0, 1).
        warmup (bool): False gives m from the first update on.

    Returns:
        float: In [0, momentum].
    """
    return min(1.0 - 1.0 / (update + 1), momentum) if warmup else momentum


@HOOKS.register_module()
class MeanTeacherHook(Hook):
    """Update the EMA teacher after the optimizer step.

    Args:
        momentum (float): Cap of the EMA ratio, in [0, 1). Defaults to 0.996.
        warmup (bool): Whether the ratio grows as 1 - 1 / (t + 1) up to the cap, so that the
            teacher's first value is the student. Defaults to True.
        interval (int): Training iterations between updates. Defaults to 1.

    Raises:
        ValueError: If the momentum or the interval is out of its range.
        TypeError: When the training starts, if the model has no ``update_teacher``.
    """

    def __init__(self, momentum: float = 0.996, warmup: bool = True, interval: int = 1) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f'MeanTeacherHook momentum={momentum} must be in [0, 1).')
        if interval < 1:
            raise ValueError(f'MeanTeacherHook interval={interval} must be at least 1.')
        self.momentum, self.warmup, self.interval = momentum, warmup, interval

    def before_train(self, runner: Runner) -> None:
        """Check that the model has a teacher to update."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, 'update_teacher'):
            raise TypeError(
                f'MeanTeacherHook needs a model with update_teacher(), such as '
                f'MeanTeacherSegmentor, got {type(model).__name__}: remove the hook.'
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Average the student of this iteration into the teacher."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        update = runner.iter // self.interval
        model.update_teacher(ema_momentum(update, self.momentum, self.warmup))
