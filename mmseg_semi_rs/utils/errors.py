# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Errors that the command line tools tell in one sentence, whenever they come."""

from __future__ import annotations

from typing import Any


class RunStoppedError(RuntimeError):
    """A training that is under way cannot go on, for a reason that its user is to read."""


class InUseError(ValueError):
    """Another process works on the same file or folder."""


class DiskFaultError(OSError):
    """A file cannot be written; the message is a sentence with the remedy.

    Args:
        message: The sentence.
        errno: The reason, as of :class:`OSError`.
    """

    def __init__(self, message: str, errno: int | None) -> None:
        super().__init__(message)
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.errno)  # also from process to process


def one_line(error: BaseException) -> str:
    """The message of an error of others, without line breaks; its kind where it says nothing."""
    return ' '.join(str(error).split()) or type(error).__name__
