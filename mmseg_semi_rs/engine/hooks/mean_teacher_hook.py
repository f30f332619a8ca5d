# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Averages the student into the teacher."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...models.segmentors import SemiSegmentor
from ...models.segmentors.student import is_copy
from ...utils.runner import unwrap
from .semi_segmentor import semi_segmentor


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


def half_life_momentum(half_life: float, max_iters: int, interval: int = 1) -> float:
    """Momentum at which a student's weight in the average halves over a share of the training.

    Args:
        half_life (float): The share, in (0, 1).
        max_iters (int): Length of the training.
        interval (int): Iterations between updates. Defaults to 1.

    Returns:
        float: In (0, 1): 0.5 ** (interval / (half_life * max_iters)).
    """
    return 0.5 ** (interval / (half_life * max_iters))


@HOOKS.register_module()
class MeanTeacherHook(Hook):
    """Update the EMA teacher after the optimizer step.

    Args:
        momentum (float): Cap of the EMA ratio, in [0, 1). Defaults to 0.996.
        warmup (bool): Whether the ratio grows as 1 - 1 / (t + 1) up to the cap, so that the
            teacher's first value is the student. A teacher that differs from its student when the
            training begins was loaded, by ``load_from`` for one, and is never warmed up. Defaults
            to True.
        interval (int): Training iterations between updates. Defaults to 1.
        half_life (float, optional): Takes the momentum from the length of the training: share of it
            over which the weight of a student in the average halves, in (0, 1). Defaults to None.

    Raises:
        ValueError: If a number is out of its range; or, when the training starts, if the model has
            no teacher.
    """

    def __init__(
        self,
        momentum: float = 0.996,
        warmup: bool = True,
        interval: int = 1,
        half_life: float | None = None,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f'MeanTeacherHook momentum={momentum} must be in [0, 1).')
        if interval < 1:
            raise ValueError(f'MeanTeacherHook interval={interval} must be at least 1.')
        if half_life is not None and not 0 < half_life < 1:
            raise ValueError(
                f'MeanTeacherHook half_life={half_life}, a share of the training, must be in '
                '(0, 1).'
            )
        self.momentum, self.warmup, self.interval = momentum, warmup, interval
        self.half_life = half_life
        self._average_is_missing = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Notice a checkpoint of ``ema=False``, which has no average."""
        weights = checkpoint.get('state_dict', checkpoint)
        parts = (name.removeprefix('module.').partition('.')[0] for name in weights)
        self._average_is_missing = not {'teacher', 'teachers'} & set(parts)

    def before_train(self, runner: Runner) -> None:
        """Check that the model has a teacher to update, and whether that was loaded.

        To a checkpoint without an average the loaded student is the first one.
        """
        model = semi_segmentor(runner, self)
        if self.half_life is not None:
            self.momentum = half_life_momentum(self.half_life, runner.max_iters, self.interval)
        info = runner.message_hub.runtime_info
        if self._average_is_missing:
            model.update_teacher(0.0)
        if runner.iter == 0:
            loaded = any(not is_copy(*pair) for pair in model.averages)
            runner.message_hub.update_info('teacher_was_loaded', loaded)
            if loaded and self.warmup:
                print_log('The average was loaded: it goes on without warm-up.', logger='current')
        self.warmup = self.warmup and not info.get('teacher_was_loaded', False)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Average the student of this iteration into the teacher."""
        if self.every_n_train_iters(runner, self.interval):
            self.update_average(unwrap(runner.model), runner.iter // self.interval)

    def update_average(self, model: SemiSegmentor, update: int) -> None:
        """Make the update that comes after a number of others."""
        model.update_teacher(ema_momentum(update, self.momentum, self.warmup))
