# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Console output of a training: a progress bar or a few lines; the log file has everything."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import Progress, TaskID

__all__ = ['ConsoleRunner', 'ProgressHook']

_OFTEN, _AT_FIRST = 10, 100  # one line every 10 steps in the first 100
_LINES = 50  # maximum number of further lines
# Beginnings of mmengine's messages that only help to debug.
_FOR_THE_FILE = (
    *('\n' + '-' * 60, 'Config:', 'Hooks will be executed', 'Distributed training is not used'),
    *('"FileClient" will be', '"HardDiskBackend" is', 'Checkpoints will be saved', 'Exp name:'),
    *('Saving checkpoint at', 'Load checkpoint from', 'Iter(', 'Epoch('),
    *('The prefix is not set', 'paramwise_options -- '),
)
_OF_EACH_PARAMETER = ' is skipped since its requires_grad=False'
_WARNINGS = (
    '``build_loss`` would be',
    'Default ``avg_non_ignore``',
    'The draw is False',
    '`reduce_zero_label` will',
)  # mmseg's
_TOLD_BY_THE_HOOK = ('Validation of ', 'per class results', 'The best checkpoint')


class _ConsoleHandler(logging.Handler):
    """Prints log records with rich, above a bar if there is one, except for debugging messages."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self.console = console
        self.left_out: tuple[str, ...] = _FOR_THE_FILE

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        message = record.getMessage()
        left_out = message.startswith(self.left_out) or message.endswith(_OF_EACH_PARAMETER)
        if record.levelno < logging.ERROR and left_out:
            return
        style = 'yellow' if record.levelno == logging.WARNING else None
        style = 'red' if record.levelno > logging.WARNING else style
        self.console.print(message, style=style, markup=False, highlight=False)


class ConsoleRunner(Runner):
    """mmengine's runner with short console output; its log file is the same."""

    console: Console

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """See :class:`Runner`; replaces the handler of the console."""
        logger = super().build_logger(*args, **kwargs)
        self.console = Console(soft_wrap=True)
        for message in _WARNINGS:
            warnings.filterwarnings('ignore', message=message)
        logger.handlers[:] = [
            _ConsoleHandler(self.console, handler.level)
            if type(handler) is logging.StreamHandler
            else handler
            for handler in logger.handlers
        ]
        return logger


class ProgressHook(Hook):
    """Shows the progress of a training and the remaining time, from the first step on.

    On a terminal this is a bar. Elsewhere it is a line every 10 steps of the first 100, and about
    fifty more lines. A validation is one line.

    Args:
        bar: Progress bar, which is only visible on a terminal.
    """

    priority = 'VERY_LOW'

    def __init__(self, bar: Progress) -> None:
        self.bar, self.task = bar, TaskID(0)
        self.begun = self.first = time.monotonic()
        self.start, self.interval, self.loss = 0, 1, ''

    def before_train(self, runner: Runner) -> None:
        """Start counting."""
        for handler in runner.logger.handlers:
            if isinstance(handler, _ConsoleHandler):
                handler.left_out = _FOR_THE_FILE + _TOLD_BY_THE_HOOK
        logged = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.interval = max(*logged, 1, -(-runner.max_iters // _LINES))
        self.start, self.begun = runner.iter, time.monotonic()
        self.bar.speed_estimate_period = 600  # averages over steps, validations and checkpoints
        self.task = self.bar.add_task(
            'training', total=runner.max_iters, completed=self.start, visible=is_main_process()
        )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Count a step, and report it if it is due."""
        done, now = runner.iter + 1, time.monotonic()
        steps = done - self.start
        if steps == 1:
            self.first = now
        often = steps <= _AT_FIRST and steps % _OFTEN == 0
        due = steps == 1 or often or done % self.interval == 0 or done == runner.max_iters
        if due and outputs and 'loss' in outputs and is_main_process():
            self.loss = f'loss {float(outputs["loss"].detach()):.3f}'  # makes the host wait
        self.bar.update(self.task, completed=done, description=f'training, {self.loss}')
        if due and self.bar.disable and is_main_process():
            # The first step includes one-off work, so it counts only while there is no other.
            each = (now - self.first) / (steps - 1) if steps > 1 else now - self.begun
            left = timedelta(seconds=round(each * (runner.max_iters - done)))
            print(
                f'step {done:,} of {runner.max_iters:,}: {self.loss}, {each:.2f} s a step, about '
                f'{left} left',
                flush=True,
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the scores."""
        if is_main_process() and metrics:
            images = len(runner.val_loop.dataloader.dataset)
            told = f'validation at step {runner.iter:,}, {images:,} images: {_scores(metrics)}'
            self.bar.console.print(told, markup=False, highlight=False, soft_wrap=True)


def _scores(metrics: Mapping[str, float]) -> str:
    """Format scores in one line: the mean, each network, and the classes."""
    networks = [
        f'{key.removesuffix("/mIoU")} {value:.2f}'
        for key, value in metrics.items()
        if key.endswith('/mIoU')
    ]
    classes = [
        f'{key.removeprefix("IoU.")} ' + ('absent' if math.isnan(value) else f'{value:.1f}')
        for key, value in metrics.items()
        if key.startswith('IoU.')
    ]
    first, score = next(iter(metrics.items()))
    if 'mIoU' in metrics:
        first, score = 'mIoU', metrics['mIoU']
    told = f'{first} {score:.2f}' + (f' ({", ".join(networks)})' if networks else '')
    return told + (f'; {", ".join(classes)}' if classes else '')
