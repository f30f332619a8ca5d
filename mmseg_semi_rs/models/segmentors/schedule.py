# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""When unlabelled images begin to count, and how fast they come to their full weight."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from mmengine.logging import MessageHub, print_log


@dataclass(frozen=True)
class UnsupervisedSchedule:
    """Supervised burn-in, then a linear ramp of the unsupervised weight.

    Attributes:
        start: Steps of supervised training before the first pseudo label; below 1 the share of the
            whole training that they take. 0 starts at once.
        ramp: Steps after the start over which the weight grows from 0 to 1, or their share.

    Raises:
        ValueError: If one is no number of steps and no share.
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
        """The step at which pseudo labels begin, in a training whose length the runner tells.

        Raises:
            ValueError: If it is a share and nobody has told the length of the training.
        """
        return self._steps('start', max_iters)

    def weight(self) -> float | None:
        """Weight of the unsupervised losses at the current step.

        Returns:
            In [0, 1]; None during the burn-in. Outside of a training it is 1.
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
    """Refuse a burn-in without an end, and tell of one that is missing.

    Args:
        schedule: Of the segmentor.
        needed: Whether its gate asks for a burn-in.
        max_iters: Length of the training.
        trained: Whether the training goes on from a checkpoint.

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
