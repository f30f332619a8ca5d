# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Keeps maps in memory as convolutions like them."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lay out the weights of all convolutions channels last before anything runs.

    PyTorch's convolutions then hand out maps that are channels last too, whatever the images were,
    so that a CNN runs through in that layout: its students, their EMA teacher and its frozen
    teachers. Results are the same up to rounding. ``docs/performance.md`` has what a CNN gains on
    the CPU; vision transformers gain nothing. PyTorch's ``DistributedDataParallel``, which is made
    before, says once that strides of gradients differ from its own; that changes no result.
    """

    def before_run(self, runner: Runner) -> None:
        """Convert the model, in place: the optimizer keeps its parameters."""
        runner.model.to(memory_format=torch.channels_last)
