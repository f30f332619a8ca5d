# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Errors that the command line tools tell in one sentence, whenever they come."""

from __future__ import annotations


class RunStoppedError(RuntimeError):
    """A training that is under way cannot go on, for a reason that its user is to read."""


class InUseError(ValueError):
    """Another process works on the same file or folder."""
