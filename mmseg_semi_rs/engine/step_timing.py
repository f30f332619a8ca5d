# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Measures where the time of a training step goes."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import Any, ClassVar

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..utils.runner import unwrap
from ..utils.step_parts import LISTENERS, step_part
from .activation_memory import SavedActivations

__all__ = ['FirstStepHook', 'Stopwatch', 'TimeStepsHook', 'matmul_peak']

#: Parts of a step in the order of execution, as :class:`TimeStepsHook` reports them.
PARTS = (
    'data',
    'preprocess',
    'EMA forward',
    'purification',
    'frozen teachers',
    'student forward',
    'backward',
    'optimizer',
    'EMA update',
    'rest',
)


class Stopwatch:
    """Times the parts of a step (``step_part``) without making the host wait for the device.

    The time of a part excludes the parts nested in it. On a GPU events are recorded and read after
    the last step; on the CPU the clock is read.

    Args:
        cuda: Whether the work runs on a GPU.
    """

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self._spans: list[tuple[int, str, str | None, Any, Any]] = []
        self._open: list[tuple[str, Any]] = []
        self.step = 0

    def now(self) -> Any:
        """A point in time: an event, or seconds."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds between two points in time; on a GPU both must have passed."""
        return start.elapsed_time(end) / 1000 if self.cuda else end - start

    def begin(self, part: str) -> None:
        """Start timing a part."""
        self._open.append((part, self.now()))

    def end(self) -> None:
        """Stop timing the part that was started last."""
        part, start = self._open.pop()
        outer = self._open[-1][0] if self._open else None
        self._spans.append((self.step, part, outer, start, self.now()))

    def watch(self, part: str, module: nn.Module) -> None:
        """Assign the forward passes of a module to a part."""
        module.register_forward_pre_hook(lambda *_: self.begin(part))
        module.register_forward_hook(lambda *_: self.end())

    def totals(self, first: int, last: int) -> list[dict[str, float]]:
        """Seconds by part for each step from ``first`` up to, but not including, ``last``."""
        sums: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for step, part, outer, start, end in self._spans:
            seconds = self.between(start, end) if first <= step < last else 0.0
            sums[step][part] += seconds
            if outer is not None:
                sums[step][outer] -= seconds
        return [dict(sums[step]) for step in range(first, last)]


class TimeStepsHook(Hook):
    """Times a number of training steps after a warm-up, and ends the training.

    The parts are disjoint and add up to the step: 'EMA forward' is ``make_pseudo_labels`` of the
    segmentor, whichever network labels; 'purification' the work of purifiers and ``VLMPurifyHook``;
    'frozen teachers' that of all frozen teachers; 'student forward' the rest of ``loss`` without
    the backward passes inside it (``early_backward``); 'data' the time spent waiting for the
    loader.

    Args:
        steps: Number of timed steps.
        warmup: Number of steps before them.
        repeat_batch: Whether to train on the first batch repeatedly, to exclude the loader.
        count_flops: Whether to count the operations of the first step, forward and backward.
        count_activations: Whether to count the bytes that autograd saves in the first step.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        steps: int = 20,
        warmup: int = 5,
        repeat_batch: bool = False,
        count_flops: bool = False,
        count_activations: bool = False,
    ) -> None:
        if steps < 1 or warmup < 1:
            raise ValueError(f'steps={steps} and warmup={warmup} must be at least 1.')
        self.steps, self.warmup = steps, warmup
        self.repeat_batch, self.count_flops = repeat_batch, count_flops
        self.count_activations = count_activations
        self.flops = self.activations = 0
        self.images = 0
        self._begins: list[Any] = []
        self._ends: list[Any] = []
        self._counter: FlopCounterMode | None = None
        self._saved: SavedActivations | None = None

    def before_train(self, runner: Runner) -> None:
        """Start listening to the parts of the model, and define those of mmengine."""
        self.watch = Stopwatch(torch.cuda.is_available())
        LISTENERS.append(self.watch)
        self.watch.watch('preprocess', unwrap(runner.model).data_preprocessor)
        wrapper = runner.optim_wrapper
        for name, part in (
            ('backward', 'backward'),
            ('step', 'optimizer'),
            ('zero_grad', 'optimizer'),
        ):
            setattr(wrapper, name, step_part(part)(getattr(wrapper, name)))

    def after_train(self, runner: Runner) -> None:
        """Stop listening."""
        LISTENERS.remove(self.watch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin a step."""
        if self.repeat_batch and self.watch.step == 0:
            runner.train_loop.dataloader_iterator = iter(lambda: data_batch, None)
        if self.watch.step == self.warmup and self.watch.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        if self.count_flops and self.watch.step == 0:
            self._counter = _flop_counter()
            self._counter.__enter__()
        if self.count_activations and self.watch.step == 0:
            self._saved = SavedActivations(runner.model.parameters())
            self._saved.__enter__()
        self._begins.append(self.watch.now())

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """End a step, and the training after the last one."""
        self._ends.append(self.watch.now())
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops, self._counter = self._counter.get_total_flops(), None
        if self._saved is not None:
            self._saved.__exit__(None, None, None)
            self.activations, self._saved = self._saved.peak, None
        if self.watch.step == self.warmup + self.steps - 1:
            self.images = runner.train_dataloader.batch_size
            if self.watch.cuda:
                torch.cuda.synchronize()
            runner.train_loop.stop_training = True
        self.watch.step += 1

    def report(self) -> dict[str, Any]:
        """Summarise the measurements.

        Returns:
            ``step`` (median seconds), ``images_per_second``, ``parts`` (median seconds of each part
            of the step), ``flops`` of a step and ``activations``, the maximum of saved bytes (0 if
            not counted).
        """
        first = self.warmup
        last = len(self._begins)
        # A step begins at the end of the previous one, so that it includes waiting for data.
        steps = [
            self.watch.between(self._ends[index - 1], self._ends[index])
            for index in range(first, last)
        ]
        waits = [
            self.watch.between(self._ends[index - 1], self._begins[index])
            for index in range(first, last)
        ]
        rows = []
        for step, wait, parts in zip(steps, waits, self.watch.totals(first, last), strict=True):
            ahead = parts.pop('purification ahead', 0.0)  # runs before the step, like the data
            if ahead:
                parts['purification'] = parts.get('purification', 0.0) + ahead
            parts = {'data': wait - ahead, **parts}
            rows.append({**parts, 'rest': max(0.0, step - sum(parts.values()))})
        median = statistics.median(steps)
        return {
            'step': median,
            'images_per_second': self.images / median,
            'parts': {
                part: statistics.median(row.get(part, 0.0) for row in rows)
                for part in PARTS
                if any(part in row for row in rows)
            },
            'flops': self.flops,
            'activations': self.activations,
        }


class _NoModules:
    """Replaces torch's module tracker, which does not work with ``autograd.grad``."""

    parents: ClassVar[set[str]] = {'Global'}

    def __enter__(self) -> None:
        """Track nothing."""

    def __exit__(self, *_: object) -> None:
        """Track nothing."""


def _flop_counter() -> FlopCounterMode:
    """A FLOP counter for steps that may contain backward passes (``early_backward``)."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Measure the speed of a large matrix product.

    Args:
        device: Device of the product.
        dtype: Its precision.
        seconds: Duration of the measurement.

    Returns:
        Floating-point operations per second, the best of all repetitions.
    """
    size = 8192 if device.type == 'cuda' else 1024
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    watch = Stopwatch(device.type == 'cuda')
    best = float('inf')
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = watch.now()
        torch.mm(left, right)
        stop = watch.now()
        if watch.cuda:
            torch.cuda.synchronize()
        best = min(best, watch.between(start, stop))
    return 2 * size**3 / best


class FirstStepHook(Hook):
    """Records when the first step of a run is done."""

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.done: float | None = None

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Record the time."""
        self.done = self.done or time.perf_counter()
