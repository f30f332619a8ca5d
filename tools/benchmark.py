# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Measure the training of a config: images per second, and where the time goes.

    python tools/benchmark.py CONFIG                       # as it trains, loader included
    python tools/benchmark.py CONFIG --amp --repeat-batch --mfu
    python tools/benchmark.py CONFIG --loader              # milliseconds per sample on one core
    python tools/benchmark.py CONFIG --resume-at 40000    # start of a resumed run against a fresh
    python tools/benchmark.py CONFIG --against OTHER      # a step of CONFIG as a share of OTHER's

Nothing is written but what ``--json`` asks for.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmseg_semi_rs import register_all
from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('benchmark', 'Measure the training of a config')
    parser.add_argument('config', help='config file')
    parser.add_argument('--steps', type=int, default=20, help='steps that are timed (default 20)')
    parser.add_argument('--warmup', type=int, default=5, help='steps before them (default 5)')
    parser.add_argument('--amp', action='store_true', help='train in bfloat16 on the GPU')
    parser.add_argument(
        '--repeat-batch', action='store_true', help='train on one batch, to leave the loader out'
    )
    parser.add_argument(
        '--mfu',
        action='store_true',
        help='count operations, and set them against a measured matrix product',
    )
    parser.add_argument(
        '--activations',
        action='store_true',
        help='count what autograd keeps for the backward pass at most, in the first step',
    )
    parser.add_argument(
        '--loader', action='store_true', help='measure only the transforms, on one core'
    )
    parser.add_argument(
        '--samples', type=int, default=100, help='samples of each source for --loader'
    )
    parser.add_argument(
        '--resume-at',
        type=int,
        metavar='ITERATION',
        help='time the start of a run that resumes there (forged state) against a fresh one',
    )
    parser.add_argument(
        '--against', metavar='CONFIG', help='time both in turns, and give the ratio of their steps'
    )
    parser.add_argument('--rounds', type=int, default=5, help='turns for --against (default 5)')
    parser.add_argument('--json', metavar='FILE', help='write the figures')
    return parse(parser, arguments)


class TimedTransform:
    """A transform that books its time under its name."""

    def __init__(self, transform: Any, path: str, seconds: dict[str, list[float]]) -> None:
        self.transform, self.path, self.seconds = transform, path, seconds

    def __call__(self, results: dict) -> dict | None:
        """Run the transform."""
        start = time.perf_counter()
        try:
            return self.transform(results)
        finally:
            self.seconds[self.path].append(time.perf_counter() - start)


def time_transforms(pipeline: Any, seconds: dict[str, list[float]], path: str = '') -> None:
    """Wrap every transform of a Compose, inner ones too, in a :class:`TimedTransform`."""
    for index, transform in enumerate(pipeline.transforms):
        name = f'{path}{type(transform).__name__}'
        for branch, inner in getattr(transform, 'pipelines', {}).items():
            time_transforms(inner, seconds, f'{name}.{branch}.')
        nested = getattr(transform, 'transforms', None)
        if hasattr(nested, 'transforms'):
            time_transforms(nested, seconds, f'{name}.')
        elif isinstance(nested, list):
            time_transforms(transform, seconds, f'{name}.')
        pipeline.transforms[index] = TimedTransform(transform, name, seconds)


def benchmark_loader(cfg: Config, samples: int) -> dict[str, Any]:
    """Time the transforms of training samples in this process, on one core.

    Args:
        cfg: The config.
        samples: Samples of each source.

    Returns:
        Milliseconds per sample of each source (mean and median) and of each transform (mean per
        sample; a transform that holds others includes them).
    """
    import cv2
    import torch
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS

    from mmseg_semi_rs.utils.randomness import Draw

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sources = {
        name: part
        for name in ('labelled', 'unlabelled')
        if (part := getattr(dataset, name, None)) is not None
    } or {'training': dataset}
    figures: dict[str, Any] = {}
    first = 0
    for source, part in sources.items():

        def draw(position: int, first: int = first, size: int = len(part)) -> Draw:
            return Draw(first + position % size, (0, first, position))

        for position in range(min(10, samples)):
            dataset[draw(position)]
        seconds: dict[str, list[float]] = defaultdict(list)
        times = []
        for position in range(10, 10 + samples):  # the plain pipeline gives the total
            start = time.perf_counter()
            dataset[draw(position)]
            times.append(time.perf_counter() - start)
        time_transforms(part.pipeline, seconds)
        for position in range(10, 10 + samples):
            dataset[draw(position)]
        figures[source] = {
            'mean_ms': 1000 * statistics.fmean(times),
            'median_ms': 1000 * statistics.median(times),
            'transforms_ms': {name: 1000 * sum(spent) / samples for name, spent in seconds.items()},
        }
        first += len(part)
    return figures


def quiet(cfg: Config) -> None:
    """Leave out of a config what does not belong to the training steps."""
    from mmseg_semi_rs.engine.launch import section

    section(cfg, 'default_hooks').pop('visualization', None)
    cfg.log_level = 'WARNING'
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None


def benchmark_resume(cfg: Config, iteration: int) -> dict[str, Any]:
    """Time the way from the config to the end of the first step, fresh and resumed.

    Args:
        cfg: The config, ready for a Runner; changed in place.
        iteration: Where the resumed run goes on. Its state is that of a fresh run after one step
            with this number written over its own.

    Returns:
        Seconds ``fresh`` and ``resumed``, and their ``ratio``. A run before them, which is not
        counted, warms the caches.
    """
    import torch
    from mmengine.runner import CheckpointLoader, Runner

    from mmseg_semi_rs.engine.step_timing import FirstStepHook

    quiet(cfg)

    def seconds(name: str, first: int, **changes: Any) -> float:
        run = copy.deepcopy(cfg)
        run.update(changes)
        run.work_dir = str(Path(folder) / name)
        run.experiment_name = f'{name}_{time.time_ns()}'
        run.train_cfg.max_iters = first + 1
        for scheduler in run.param_scheduler:
            scheduler.end = max(scheduler.get('end', 0), 2 * (first + 1))
        start = time.perf_counter()
        runner = Runner.from_cfg(run)
        hook = FirstStepHook()
        runner.register_hook(hook)
        runner.train()
        for handler in list(runner.logger.handlers):
            handler.close()
        return (hook.done or time.perf_counter()) - start

    if isinstance(cfg.param_scheduler, dict):
        cfg.param_scheduler = [cfg.param_scheduler]
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
    with tempfile.TemporaryDirectory(prefix='mmseg_semi_rs_benchmark_') as folder:
        seconds('warm', 0)
        fresh = seconds('fresh', 0)
        forged = Path(folder) / 'forged.pth'
        state = CheckpointLoader.load_checkpoint(str(Path(folder) / 'fresh' / 'iter_1.pth'))
        state['meta']['iter'] = iteration
        torch.save(state, forged)
        resumed = seconds('resumed', iteration, load_from=str(forged), resume=True)
    return {'fresh': fresh, 'resumed': resumed, 'ratio': resumed / fresh}


def benchmark_steps(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Train some steps and time them.

    Args:
        cfg: The config, ready for a Runner; changed in place.
        args: The command line.

    Returns:
        The hook's report, and ``peak_memory`` in bytes; with ``--mfu`` also ``matmul_peak``
        (operations per second) and ``mfu`` in [0, 1].
    """
    import torch
    from mmengine.runner import Runner

    from mmseg_semi_rs.engine.dry_run import peak_memory
    from mmseg_semi_rs.engine.step_timing import TimeStepsHook, matmul_peak

    quiet(cfg)
    cfg.default_hooks.checkpoint = None
    if cfg.train_cfg.get('type') == 'SemiTrainLoop':
        cfg.train_cfg.check_data = False
    cfg.train_cfg.max_iters = max(cfg.train_cfg.get('max_iters', 0), args.warmup + args.steps)
    with tempfile.TemporaryDirectory(prefix='mmseg_semi_rs_benchmark_') as folder:
        cfg.work_dir = folder
        cfg.experiment_name = f'benchmark_{time.time_ns()}'
        cfg.visualizer = dict(type='Visualizer', vis_backends=[], name=cfg.experiment_name)
        runner = Runner.from_cfg(cfg)
        hook = TimeStepsHook(args.steps, args.warmup, args.repeat_batch, args.mfu, args.activations)
        runner.register_hook(hook, priority='LOWEST')
        runner.train()
        for handler in list(runner.logger.handlers):
            handler.close()
    figures = {**hook.report(), 'peak_memory': peak_memory()}
    if args.mfu:
        device = next(runner.model.parameters()).device
        dtype = getattr(runner.optim_wrapper, 'cast_dtype', None) or torch.float32
        figures['matmul_peak'] = matmul_peak(device, dtype)
        figures['mfu'] = figures['flops'] / figures['step'] / figures['matmul_peak']
    return figures


def benchmark_against(cfg: Config, other: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of two configs in turns, so that both meet what else the machine does.

    Args:
        cfg: The config.
        other: What it is compared with.
        args: The command line.

    Returns:
        ``step`` and ``other``, the median seconds of each round, and ``ratios`` of them.
    """
    turns = [
        [benchmark_steps(copy.deepcopy(each), args)['step'] for each in (cfg, other)]
        for _ in range(args.rounds)
    ]
    steps, others = map(list, zip(*turns, strict=True))
    ratios = [step / base for step, base in turns]
    return {'step': steps, 'other': others, 'ratios': ratios}


def print_loader(figures: dict[str, Any]) -> None:
    """Print the loader's figures."""
    for source, part in figures.items():
        print(f'{source}: {part["median_ms"]:.1f} ms per sample (mean {part["mean_ms"]:.1f})')
        for name, milliseconds in part['transforms_ms'].items():
            depth = name.count('.')
            print(
                f'  {"  " * depth}{name.rsplit(".", 1)[-1]:<{40 - 2 * depth}}{milliseconds:8.2f} ms'
            )


def print_steps(figures: dict[str, Any]) -> None:
    """Print the steps' figures."""
    import torch

    step = figures['step']
    print(f'{figures["images_per_second"]:.2f} images/s, median step {1000 * step:.1f} ms')
    for part, seconds in figures['parts'].items():
        print(f'  {part:<18}{1000 * seconds:10.1f} ms {100 * seconds / step:6.1f} %')
    kind = 'GPU' if torch.cuda.is_available() else 'process'
    print(f'peak {kind} memory {figures["peak_memory"] / 2**30:.2f} GiB')
    if figures['activations']:
        print(f'saved activations at most {figures["activations"] / 2**30:.2f} GiB')
    if 'mfu' in figures:
        print(
            f'{figures["flops"] / 1e12:.2f} TFLOP per step, matrix product '
            f'{figures["matmul_peak"] / 1e12:.2f} TFLOP/s, utilisation {100 * figures["mfu"]:.1f} %'
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        register_all()
        from mmseg_semi_rs.engine.launch import check_paths, load_config, set_amp

        cfg = load_config(args.config, args.cfg_options)
        check_paths(cfg, ['train_dataloader'], weights=not args.loader)
        if args.loader:
            figures = benchmark_loader(cfg, args.samples)
            print_loader(figures)
        elif args.resume_at is not None:
            figures = benchmark_resume(cfg, args.resume_at)
            print(
                f'first step done after {figures["fresh"]:.1f} s fresh, {figures["resumed"]:.1f} s '
                f'resumed at {args.resume_at}: ratio {figures["ratio"]:.2f}'
            )
        elif args.against is not None:
            if args.rounds < 1:
                raise ValueError(f'--rounds {args.rounds} times nothing: give 1 or more.')
            other = load_config(args.against, args.cfg_options)
            check_paths(other, ['train_dataloader'])
            for each in (cfg, other):
                set_amp(each, args.amp)
            figures = benchmark_against(cfg, other, args)
            ratios = figures['ratios']
            print(
                f'a step of {args.config} takes {statistics.median(ratios):.2f} '
                f'({min(ratios):.2f} to {max(ratios):.2f}) of one of {args.against}, '
                f'{args.rounds} rounds of {args.steps} steps'
            )
        else:
            note = set_amp(cfg, args.amp)
            if note:
                print(note)
            figures = benchmark_steps(cfg, args)
            print_steps(figures)
        if args.json:
            path = Path(args.json)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
