# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Queries of mmengine's runner for hooks."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import LoggerHook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrap(model: nn.Module) -> Any:
    """Return the model inside mmengine's wrappers for distribution and test-time augmentation."""
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner


def logger_interval(runner: Runner) -> int:
    """Return the iterations between two log lines; 1 if there is no logger hook."""
    loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    return min((hook.interval for hook in loggers), default=1)
