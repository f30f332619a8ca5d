# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Signals that ask a training to stop, for a loop that looks at them when a step is done."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Takes note of SIGTERM and SIGINT instead of dying; a second Ctrl-C does not wait.

    Attributes:
        received: The signal that came, if one did.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def listen(self) -> None:
        """Begin; outside of the main thread nothing can be listened to, and nothing happens."""
        self.received = None
        with suppress(ValueError):
            for number in _SIGNALS:
                self._handlers.setdefault(number, signal.signal(number, self._note))
            _end_workers_at_exit()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def block(self) -> None:
        """Let processes that are started now, the data loading workers, be without signals.

        The whole group gets them, from a terminal and from Slurm alike, and a step whose workers
        died could not end.
        """
        if self._handlers:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def unblock(self) -> None:
        """The workers are started."""
        if self._handlers:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def agree(self, device: torch.device) -> None:
        """Take a signal that any process got for one of all; all processes call this."""
        received = torch.tensor([float(self.received or 0)], device=device)
        all_reduce(received, 'max')
        self.received = int(received) or None

    def restore(self) -> None:
        """End, and leave signals as they were."""
        self.unblock()
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)


@functools.cache
def _end_workers_at_exit() -> None:
    """End workers, which a mere SIGTERM does not reach, before Python waits for them."""

    def end() -> None:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()

    atexit.register(end)
