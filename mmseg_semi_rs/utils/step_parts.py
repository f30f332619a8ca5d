# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Named parts of a training step, for torch's profiler and for timing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch.profiler import record_function


class PartListener(Protocol):
    """A listener for the start and end of the parts of a step."""

    def begin(self, part: str) -> None:
        """Handle the start of a part, nested in all parts that have not ended."""
        ...

    def end(self) -> None:
        """Handle the end of the part that started last."""
        ...


#: Registered listeners; empty unless steps are being timed.
LISTENERS: list[PartListener] = []


@contextmanager
def step_part(part: str) -> Iterator[None]:
    """Name a part of a step, as a context manager or as a decorator.

    Args:
        part: Name of the part, shown in a trace of torch's profiler.
    """
    listeners = tuple(LISTENERS)
    for listener in listeners:
        listener.begin(part)
    try:
        with record_function(part):
            yield
    finally:
        for listener in listeners:
            listener.end()
