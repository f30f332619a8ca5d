# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The model of a runner, whatever wraps it."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> Any:
    """The model inside of mmengine's wrapper for several processes, or the model itself."""
    return model.module if is_model_wrapper(model) else model
