# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The model of a runner, whatever wraps it, and what ends a run in one sentence."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


class RunStoppedError(RuntimeError):
    """A training that is under way cannot go on, for a reason that its user is to read."""


def unwrap(model: nn.Module) -> Any:
    """The model inside of mmengine's wrapper for several processes, or the model itself."""
    return model.module if is_model_wrapper(model) else model
