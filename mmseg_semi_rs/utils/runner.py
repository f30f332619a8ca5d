# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What hooks ask of a runner."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import LoggerHook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrap(model: nn.Module) -> Any:
    """The model inside of mmengine's wrappers, for several processes and augmented tests."""
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner


def logger_interval(runner: Runner) -> int:
    """Iterations between two lines of the log; 1 where nothing logs."""
    loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    return min((hook.interval for hook in loggers), default=1)
