# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Stores feature maps in the memory format that convolutions prefer."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Convert the weights of all convolutions to the channels-last memory format before the run.

    PyTorch's convolutions then return channels-last maps for any images, so that a CNN runs in that
    format throughout: students, their EMA teacher and frozen teachers. Results are the same up to
    rounding. ``docs/performance.md`` shows the gain for CNNs on the CPU; vision transformers gain
    nothing. ``DistributedDataParallel``, which is created before, warns once that strides of
    gradients differ from its own; this does not change any result.
    """

    def before_run(self, runner: Runner) -> None:
        """Convert the model in place, so that the optimizer keeps its parameters."""
        runner.model.to(memory_format=torch.channels_last)
