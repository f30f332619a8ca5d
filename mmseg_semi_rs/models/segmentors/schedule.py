# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""When unlabelled images begin to count, and how fast they reach their full weight."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from mmengine.logging import MessageHub, print_log


@dataclass(frozen=True)
class UnsupervisedSchedule:
    """Supervised burn-in, followed by a linear ramp of the unsupervised weight.

    Attributes:
        start: Iterations of supervised training before the first pseudo label; a value below 1 is a
            share of the whole training. 0 starts at once.
        ramp: Iterations after the start in which the weight grows from 0 to 1, or their share.

    Raises:
        ValueError: If a value is neither a number of iterations nor a share.
    """

    start: int | float = 0
    ramp: int | float = 0

    def __post_init__(self) -> None:
        for name in ('start', 'ramp'):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value < math.inf
                or (value >= 1 and value != int(value))
            ):
                raise ValueError(
                    f'semi_train_cfg.unsup_{name}={value!r} must be a number of steps, or a share '
                    'of the training in (0, 1).'
                )

    def begin(self, max_iters: int | None = None) -> int:
        """Return the iteration of the first pseudo label; ``max_iters`` defaults to the runner's.

        Raises:
            ValueError: If ``start`` is a share and the length of the training is not known.
        """
        return self._steps('start', max_iters)

    def weight(self) -> float | None:
        """Return the weight of the unsupervised losses at the current iteration.

        Returns:
            A value in [0, 1], or None during the burn-in. Outside a training run it is 1.
        """
        iteration = _hub().get('iter')
        if iteration is None:
            return 1.0
        since = iteration - self._steps('start')
        if since < 0:
            return None
        ramp = self._steps('ramp')
        return min(since / ramp, 1.0) if ramp else 1.0

    def _steps(self, name: str, max_iters: int | None = None) -> int:
        value = getattr(self, name)
        if not 0 < value < 1:
            return int(value)
        length = max_iters or _hub().get('max_iters')
        if length is None:
            raise ValueError(
                f'semi_train_cfg.unsup_{name}={value} is a share of the training, whose length no '
                'runner has told: give a number of steps.'
            )
        return round(value * length)


def check_burn_in(
    schedule: UnsupervisedSchedule, needed: bool, max_iters: int, trained: bool
) -> None:
    """Refuse a burn-in that lasts the whole training, and warn if a needed one is missing.

    Args:
        schedule: The segmentor's schedule.
        needed: Whether the segmentor's gate needs a burn-in.
        max_iters: Length of the training in iterations.
        trained: Whether the training starts from a checkpoint.

    Raises:
        ValueError: If no pseudo label would ever be made.
    """
    if schedule.begin(max_iters) >= max_iters > 0:
        raise ValueError(
            f'semi_train_cfg.unsup_start={schedule.start} is not before the end of the training, '
            f'max_iters={max_iters}: no unlabelled image would ever count. Choose a smaller one.'
        )
    if needed and not trained and not schedule.begin(max_iters):
        print_log(
            'The gate follows a teacher that nothing has trained yet, whims and all: '
            'set semi_train_cfg.unsup_start (such as 0.4, a share of the '
            'training), or load_from a supervised checkpoint.',
            logger='current',
            level=logging.WARNING,
        )


def _hub() -> dict:
    return MessageHub.get_current_instance().runtime_info
