# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Errors that the command line tools tell in one sentence, whenever they come."""

from __future__ import annotations


class RunStoppedError(RuntimeError):
    """A training that is under way cannot go on, for a reason that its user is to read."""


class InUseError(ValueError):
    """Another process works on the same file or folder."""


def one_line(error: BaseException) -> str:
    """The message of an error of others, without line breaks; its kind where it says nothing."""
    return ' '.join(str(error).split()) or type(error).__name__
