# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Errors that the command line tools report in one sentence at any time."""

from __future__ import annotations

from typing import Any


class RunStoppedError(RuntimeError):
    """A run cannot continue, for a reason that the user should read."""


class InUseError(ValueError):
    """Another process is working on the same file or folder."""


class DiskFaultError(OSError):
    """A file cannot be written; the message is a sentence with the remedy.

    Args:
        message: The sentence.
        errno: Error number, as in :class:`OSError`.
    """

    def __init__(self, message: str, errno: int | None) -> None:
        super().__init__(message)
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.errno)  # keeps both when pickled between processes


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line, or its type if it has no message."""
    return ' '.join(str(error).split()) or type(error).__name__
