# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Named parts of a training step, for torch's profiler and for whoever times them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch.profiler import record_function


class PartListener(Protocol):
    """Is told where the parts of a step begin and end."""

    def begin(self, part: str) -> None:
        """A part begins, inside of those that have not ended."""
        ...

    def end(self) -> None:
        """The part that began last ends."""
        ...


#: Who is told; empty but while steps are timed.
LISTENERS: list[PartListener] = []


@contextmanager
def step_part(part: str) -> Iterator[None]:
    """Name what happens inside, as a context or as a decorator.

    Args:
        part: Name of the part, which a trace of torch's profiler shows.
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
