# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Signals that ask a training to stop, for a loop that checks them after each step."""

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
    """Records SIGTERM and SIGINT instead of dying; a second Ctrl-C stops at once.

    Attributes:
        received: The received signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def listen(self) -> None:
        """Start listening; outside the main thread this is impossible, and nothing happens."""
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
        """Block the signals in processes that are started now, such as data loading workers.

        A terminal and Slurm send signals to the whole process group, and a step whose workers have
        died could not be finished.
        """
        if self._handlers:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def unblock(self) -> None:
        """Unblock the signals; the workers have started."""
        if self._handlers:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def agree(self, device: torch.device) -> None:
        """Share a signal that any process received with all processes, which all call this."""
        received = torch.tensor([float(self.received or 0)], device=device)
        all_reduce(received, 'max')
        self.received = int(received) or None

    def restore(self) -> None:
        """Stop listening, and restore the previous handlers."""
        self.unblock()
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)


@functools.cache
def _end_workers_at_exit() -> None:
    """Kill workers, which block SIGTERM, before Python waits for them at exit."""

    def end() -> None:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()

    atexit.register(end)
