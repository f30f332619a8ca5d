# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Updates the teacher as an exponential moving average (EMA) of the student."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...models.segmentors import SemiSegmentor
from ...models.segmentors.student import is_copy
from ...models.weights.checkpoints import check_fit
from ...utils.runner import unwrap
from .semi_segmentor import semi_segmentor


def ema_keep(update: int, keep: float, warmup: bool) -> float:
    """Share of the old weights in one update: min(1 - 1 / (t + 1), keep) during the warm-up.

    Args:
        update: Number of previous updates, t; t = 0 gives 0, a copy of the student.
        keep: Upper bound, in [0, 1).
        warmup: If False, the result is ``keep`` from the first update on.
    """
    return min(1.0 - 1.0 / (update + 1), keep) if warmup else keep


def half_life_keep(half_life: float, max_iters: int, interval: int = 1) -> float:
    """Share to keep so that the weight of a student in the EMA halves over a share of the training.

    Args:
        half_life: That share of the training, in (0, 1).
        max_iters: Length of the training in iterations.
        interval: Iterations between updates.

    Returns:
        0.5 ** (interval / (half_life * max_iters)), in (0, 1).
    """
    return 0.5 ** (interval / (half_life * max_iters))


@HOOKS.register_module()
class MeanTeacherHook(Hook):
    """Update the EMA teacher after the optimizer step.

    Exactly one of ``momentum``, ``keep`` and ``half_life`` sets how fast the average follows the
    student; without any, ``momentum`` is 0.004 as published.

    Args:
        momentum: Share of the NEW weights, as in mmengine's ``EMAHook`` and mmdet's hook of this
            name, in (0, 0.9]. Larger values are refused, since they are probably meant as ``keep``.
        warmup: Whether the share of the old weights grows as 1 - 1 / (t + 1) up to its final value,
            so that the first update copies the student. There is no warm-up if the teacher differs
            from its student at the beginning, that is if it was loaded, for example by
            ``load_from``.
        interval: Training iterations between updates.
        half_life: Share of the training over which the weight of a student in the average halves,
            in (0, 1).
        keep: Share of the OLD weights, as in papers, in [0, 1): 1 - ``momentum``.
        **unknown: Not accepted, such as ``skip_buffer`` of mmdet's hook.

    Raises:
        ValueError: If a number is out of its range, or more than one of the three is given; or,
            when the training starts, if the model has no pseudo labels.
        TypeError: If there is an unknown argument.
    """

    def __init__(
        self,
        momentum: float | None = None,
        warmup: bool = True,
        interval: int = 1,
        half_life: float | None = None,
        keep: float | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise TypeError(
                f'MeanTeacherHook has no {sorted(unknown)}: leave them out; buffers are averaged '
                'like weights, which skip_buffer of mmdet would not do.'
            )
        given = {'momentum': momentum, 'half_life': half_life, 'keep': keep}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f'MeanTeacherHook got {given}, which say the same: give one of them.')
        if momentum is not None and not 0 < momentum <= 0.9:
            raise ValueError(
                f'MeanTeacherHook momentum={momentum} is the share of the new weights in the '
                'average, as in OpenMMLab: give a small number such as 0.004, or keep=0.996, the '
                'share of the old ones.'
            )
        if keep is not None and not 0 <= keep < 1:
            raise ValueError(
                f'MeanTeacherHook keep={keep}, the share of the old weights, must be in [0, 1).'
            )
        if interval < 1:
            raise ValueError(f'MeanTeacherHook interval={interval} must be at least 1.')
        if half_life is not None and not 0 < half_life < 1:
            raise ValueError(
                f'MeanTeacherHook half_life={half_life}, a share of the training, must be in '
                '(0, 1).'
            )
        self.keep = 1.0 - (0.004 if momentum is None else momentum) if keep is None else keep
        self.warmup, self.interval, self.half_life = warmup, interval, half_life

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to resume from weights that do not fit the whole model, e.g. of one network."""
        if runner._resume:
            weights = checkpoint.get('state_dict', checkpoint)
            check_fit(unwrap(runner.model), weights, runner._load_from)

    def before_train(self, runner: Runner) -> None:
        """Check the model, set the share to keep, and find out whether the teacher was loaded."""
        model = semi_segmentor(runner, self)
        model.average_is_kept = True
        if self.half_life is not None:
            self.keep = half_life_keep(self.half_life, runner.max_iters, self.interval)
        info = runner.message_hub.runtime_info
        if runner.iter == 0:
            updates = runner.max_iters // self.interval
            if updates * (1.0 - self.keep) < 1:
                print_log(
                    f'The average keeps {self.keep:.6g} of its weights (momentum '
                    f'{1 - self.keep:.6g}), so that it reaches further back than the {updates} '
                    'updates of this training: half_life=0.1 of MeanTeacherHook fits any length.',
                    logger='current',
                    level=logging.WARNING,
                )
            loaded = any(not is_copy(*pair) for pair in model.averages)
            runner.message_hub.update_info('teacher_was_loaded', loaded)
            if loaded and self.warmup:
                print_log('The average was loaded: it goes on without warm-up.', logger='current')
        self.warmup = self.warmup and not info.get('teacher_was_loaded', False)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Average the student of this iteration into the teacher."""
        if self.every_n_train_iters(runner, self.interval):
            self.update_average(unwrap(runner.model), runner.iter // self.interval)

    def update_average(self, model: SemiSegmentor, update: int) -> None:
        """Update the teachers of a model, given the number of previous updates."""
        model.update_teacher(ema_keep(update, self.keep, self.warmup))
